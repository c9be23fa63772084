"""Reads the configuration of the host's npm. Run confined, without network, by the host's interpreter."""

import json
import os
import subprocess
from urllib.parse import urlsplit

PORTS = {"https": 443, "http": 80}


def host_of(url, why):
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f"{why}: not an http(s) URL: {url!r}")
    return {"host": parts.hostname, "port": parts.port or PORTS[parts.scheme], "scheme": parts.scheme, "why": why}


def credentials(files):
    """The registries' credentials, from npm's files: npm itself prints them only as (protected)."""
    found = {}
    for name in files:
        try:
            with open(name, encoding="utf-8") as lines:
                for line in lines:
                    key, sign, value = line.strip().partition("=")
                    if sign and key.startswith("//"):
                        found[key.strip()] = os.path.expandvars(value.strip().strip('"'))
        except OSError:
            pass
    return found


class NpmClient:
    """Called by the engine, never by a caller."""

    def read(self):
        env = dict(os.environ, npm_config_cache="/tmp/npm-cache", npm_config_update_notifier="false")
        asked = subprocess.run(
            ["npm", "config", "list", "--long", "--json"], cwd="/tmp", env=env, capture_output=True, text=True, check=False
        )
        if asked.returncode:
            raise RuntimeError("npm config list: " + (asked.stderr.strip().splitlines() or ["no output"])[-1])
        config = json.loads(asked.stdout)
        hosts = [host_of(config["registry"], "registry")]
        inside = {"npm_config_registry": config["registry"]}
        for key, value in config.items():
            if key.startswith("@") and key.endswith(":registry"):
                hosts.append(host_of(value, key))
                inside["npm_config_" + key] = value
        files = []
        if config.get("cafile"):
            files.append(config["cafile"])
            inside["npm_config_cafile"] = config["cafile"]
        if config.get("strict-ssl") is False:
            inside["npm_config_strict_ssl"] = "false"
        for key, value in credentials([config.get("globalconfig", ""), config.get("userconfig", "")]).items():
            inside["npm_config_" + key] = value
        return {"hosts": hosts, "env": inside, "files": files}
