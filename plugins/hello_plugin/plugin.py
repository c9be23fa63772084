"""The plugin to copy: every thing that a plugin can do, in its shortest form.

A plugin is a class whose name is its key in the configuration. It imports nothing of upm but, if it wants to, `upm.progress`.
"""
import sys


class HelloPlugin:
    """Says hello."""

    # Shown as `plugin_version` in every answer. An attribute, a property or a method.
    version = "1.0.0"

    # Declare those of project_root, cache_dir, policy and fernet_lib that you need, or no __init__ at all.
    def __init__(self, policy):
        self.greeting = policy.get("greeting", "Hello")

    def greet(self, name="world"):
        """What a method returns is `data.result`: anything that JSON can hold."""
        return {"message": "%s, %s!" % (self.greeting, name)}

    async def greet_async(self, name="world"):
        """A coroutine is run to its end."""
        import asyncio  # imported where it is needed: a call that does not need it starts sooner

        await asyncio.sleep(0)
        return self.greet(name)

    def speak(self, text="Hello"):
        """What is printed is `data.output`, never mixed with the result."""
        print(text)
        print(text, file=sys.stderr)
        return {"spoken": len(text)}

    def fail(self, message="this method always fails"):
        """An exception is the answer `plugin_raised`, with its traceback."""
        raise ValueError(message)

    def progress(self):
        """`upm.progress(message, fraction)` tells how far a long method is; leave the fraction out when nobody knows."""
        import upm

        for step in (1, 2, 3):
            upm.progress("step %d of 3" % step, step / 3)
        return {"steps": 3}

    # Descriptions, callable like any method once `allowed_methods` has them.
    def info(self):
        return {"name": "HelloPlugin", "version": self.version, "description": "The plugin to copy when you write your own."}

    meta = {"license": "MIT"}

    def __introspect__(self):
        return {"methods": [name for name in vars(HelloPlugin) if not name.startswith("_")]}
