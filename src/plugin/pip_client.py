"""Reads the configuration of the host's pip: finds and merges it like pip 20 to 26 for `pip install`.

pip provides the paths of its files and its default index. The merging is done here, because importing pip's
`configuration` module takes 100 ms in every call.

Run by runner.py like a plugin (class `PipClient`, method `read`), confined, `-I` and with site-packages, without network. The
environment must contain the caller's `PIP_*` variables, `HOME`, and, if they are set, `XDG_CONFIG_HOME`, `XDG_CONFIG_DIRS`,
`NETRC`, `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`. Only these files are read; a missing one is not an error:

    $XDG_CONFIG_DIRS/pip/pip.conf   each of the list; /etc/xdg/pip/pip.conf if it is unset
    /etc/pip.conf
    $HOME/.pip/pip.conf
    $XDG_CONFIG_HOME/pip/pip.conf   $HOME/.config/pip/pip.conf if it is unset
    {prefix of the interpreter}/pip.conf
    $PIP_CONFIG_FILE                /dev/null: none of the above
    $NETRC, else $HOME/.netrc, else $HOME/_netrc

pip does not read a keyring, neither here nor in a call. For pip's default index, the host of its files is reported too; for
another index whose files are on another host, add that host to an egress group with `hosts`.
"""
import os
import sys


class ClientError(Exception):
    """pip's configuration is not available or not valid."""


# Spellings of each option; the key is the variable that is set in the sandbox.
OPTIONS = {
    "index_url": ("index-url", "pypi-url"),
    "extra_index_url": ("extra-index-url",),
    "find_links": ("find-links",),
    "trusted_host": ("trusted-host",),
    "proxy": ("proxy",),
    "cert": ("cert",),
    "client_cert": ("client-cert",),
    "no_index": ("no-index",),
    "timeout": ("timeout", "default-timeout"),
    "retries": ("retries",),
}


def configured():
    """({option: text}, [files that were read]), merged from files and variables like in `pip install`."""
    import configparser

    try:
        from pip._internal.utils import appdirs

        everyone = [os.path.join(path, "pip.conf") for path in appdirs.site_config_dirs("pip")]
        user = [os.path.expanduser("~/.pip/pip.conf"), os.path.join(appdirs.user_config_dir("pip"), "pip.conf")]
    except (ImportError, AttributeError) as error:
        raise ClientError("pip is not available in %s (%s); install it, or name the hosts in the egress group" % (sys.executable, error)) from None
    named = os.environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        candidates = []
    else:
        candidates = everyone + ([] if named and os.path.exists(named) else user) + [os.path.join(sys.prefix, "pip.conf")]
        candidates += [named] if named else []

    merged, files = {}, []
    for path in candidates:
        parser = configparser.RawConfigParser()
        try:
            files += parser.read(path, encoding="utf-8")  # missing or unreadable files are skipped, like in pip
        except (configparser.Error, UnicodeDecodeError) as error:
            # Without the text of the error: it quotes a line, which may contain a password.
            raise ClientError("%s: pip cannot read it: %s" % (path, type(error).__name__)) from None
        for section in parser.sections():
            for key, value in parser.items(section):
                merged[section, key.lower().replace("_", "-")] = value
    for key, value in os.environ.items():
        if key.startswith("PIP_"):
            merged[":env:", key[4:].lower().replace("_", "-")] = value

    values = {}
    for wanted in ("global", "install", ":env:"):  # the command's section takes precedence over a later file's [global]
        for (section, option), value in merged.items():
            for name, spellings in OPTIONS.items():
                if section == wanted and option in spellings and value:
                    values[name] = value
    return values, files


def defaults():
    """[(index URL, file host)] of pip's built-in indexes, its default first."""
    try:
        from pip._internal.models.index import PyPI as default
        from pip._internal.models import index

        known = [default] + [value for value in vars(index).values() if isinstance(value, type(default)) and value is not default]
        return [(one.simple_url, one.file_storage_domain) for one in known]
    except (ImportError, AttributeError) as error:
        raise ClientError("pip of %s: its default index is not where pip 20 to 26 have it (%s); set index-url in pip.conf" % (sys.executable, error)) from None


def netrc_hosts():
    """{host: (user, password)}, from the file that pip would read."""
    import netrc

    home = os.path.expanduser("~")
    candidates = [os.environ["NETRC"]] if os.environ.get("NETRC") else [os.path.join(home, ".netrc"), os.path.join(home, "_netrc")]
    for path in candidates:
        if not os.path.isfile(path):
            continue
        try:
            entries = netrc.netrc(path).hosts
        except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
            return {}  # pip ignores it too
        return {host.lower(): (entry[0] or entry[1] or "", entry[2] or "") for host, entry in entries.items() if host != "default"}
    return {}


class PipClient:
    """Reads pip's configuration."""

    def read(self):
        from urllib.parse import quote, unquote, urlsplit, urlunsplit

        values, config_files = configured()
        known = defaults()
        logins = netrc_hosts()
        hosts, files = [], []

        def grant(url, host, port, scheme, why):
            try:
                host = host.rstrip(".").encode("ascii").decode().lower()
            except UnicodeEncodeError:
                try:
                    host = host.rstrip(".").encode("idna").decode().lower()
                except UnicodeError:
                    raise ClientError("%s: its host name is not valid" % url) from None
            entry = {"host": host, "port": port, "scheme": scheme, "why": why}
            if not any((one["host"], one["port"]) == (host, port) for one in hosts):
                hosts.append(entry)

        def use(text, why):
            """The location with its credentials; grants what it needs."""
            parts = urlsplit(text)
            shown = text.rpartition("@")[2]  # no password in a message
            if parts.scheme in ("", "file"):
                path = os.path.expanduser(unquote(parts.path) if parts.scheme else text)
                if not os.path.isabs(path):
                    raise ClientError("%s: %s of pip's configuration is not an absolute path" % (shown, why))
                files.append(path)
                return text if parts.scheme else path
            try:
                port = parts.port or {"https": 443, "http": 80}[parts.scheme]
                host = parts.hostname or ""
            except (KeyError, ValueError):
                host = ""
            if not host:
                raise ClientError("%s: %s of pip's configuration is not an http, https or file URL" % (shown, why))
            grant(shown, host, port, parts.scheme, why)
            if why in ("index", "extra_index"):
                for url, file_host in known:
                    if host.lower() == urlsplit(url).hostname and file_host:
                        grant(shown, file_host, port, parts.scheme, "files")
            if "@" not in parts.netloc and host.lower() in logins:
                user, password = logins[host.lower()]
                netloc = "%s:%s@%s" % (quote(user, safe=""), quote(password, safe=""), parts.netloc)
                return urlunsplit(parts._replace(netloc=netloc))
            return text

        def path_of(option):
            path = values.get(option)
            if path:
                path = os.path.expanduser(path)
                if not os.path.isabs(path):
                    raise ClientError("%s: %s of pip's configuration is not an absolute path" % (path, option))
                files.append(path)
            return path or None

        no_index = values.get("no_index", "").strip().lower() in ("y", "yes", "t", "true", "on", "1")
        index, extra = None, []
        if not no_index:
            index = use(values.get("index_url") or known[0][0], "index")
            extra = [use(url, "extra_index") for url in values.get("extra_index_url", "").split()]
        links = [use(link, "find_links") for link in values.get("find_links", "").split()]
        trusted = values.get("trusted_host", "").split()
        # Like `requests` in pip if `cert` is not set.
        if not values.get("cert"):
            values["cert"] = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
        cert, client_cert = path_of("cert"), path_of("client_cert")

        env = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        for name, value in (
            ("PIP_INDEX_URL", index),
            ("PIP_EXTRA_INDEX_URL", " ".join(extra)),
            ("PIP_FIND_LINKS", " ".join(links)),
            ("PIP_TRUSTED_HOST", " ".join(trusted)),
            ("PIP_NO_INDEX", "1" if no_index else None),
            ("PIP_CERT", cert),
            ("PIP_CLIENT_CERT", client_cert),
            ("PIP_TIMEOUT", values.get("timeout")),
            ("PIP_RETRIES", values.get("retries")),
        ):
            if value:
                env[name] = value
        return {
            "index_url": index,
            "extra_index_urls": extra,
            "find_links": links,
            "trusted_hosts": trusted,
            "proxy": values.get("proxy") or None,
            "cert": cert,
            "client_cert": client_cert,
            "no_index": no_index,
            "hosts": hosts,
            "env": env,
            "files": sorted(set(files)),
            "config_files": config_files,
        }
