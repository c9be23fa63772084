"""Reads a plugin's class and methods from its module's source, without running it.

Run by runner.py like a plugin (class `ClassReader`, method `read`), confined, `-I -S`, without network, by the interpreter
that would run the plugin, so that the source is parsed by that version. What the source alone does not decide is
"unknown", never guessed: `exec`, a `__getattr__`, a base class from another module or a decorator can add names that are not
in the source.

It must start on interpreters that are too old for plugins, to report this: no f-strings.
"""
import ast
import os
import sys
from importlib.machinery import PathFinder, SourceFileLoader

# Larger sources are not parsed: a tree takes a hundred times as much memory.
MAX_SOURCE = 2 << 20
# The parameters that the engine offers to a plugin's constructor.
GIVEN = ("project_root", "cache_dir", "policy", "fernet_lib")
# Names that need not be methods.
DESCRIBES = ("version", "info", "meta", "__introspect__")
# Names whose use can bind any other name.
MAGIC = {"exec", "eval", "globals", "locals", "vars", "setattr", "__import__", "__dict__", "modules", "__builtins__"}
# Functions that do not change a class or an instance passed to them.
HARMLESS = {"isinstance", "issubclass", "super", "type", "vars", "dir", "id", "repr", "str", "print", "hash"}
# Values that cannot be called.
LITERALS = (getattr(ast, "Constant", ast.Dict), ast.Dict, ast.List)

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def bindings(body):
    """{name: [node that binds it]} of one scope, including nested statements; "*" for star imports."""
    found = {}

    def bind(name, node):
        found.setdefault(name, []).append(node)

    def walk(node, holder):
        if isinstance(node, FUNCTIONS + (ast.ClassDef,)):
            bind(node.name, node if holder is None else holder)
            for part in node.decorator_list:
                walk(part, node)
            return
        if isinstance(node, ast.Lambda):
            return
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                bind(alias.asname or alias.name.partition(".")[0], node)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bind(node.name, node)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bind(node.id, holder or node)
        elif type(node).__name__ in ("MatchAs", "MatchStar") and node.name:
            bind(node.name, node)
        elif type(node).__name__ == "MatchMapping" and node.rest:
            bind(node.rest, node)
        elif type(node).__name__ == "TypeAlias":
            bind(node.name.id, node)
        for child in ast.iter_child_nodes(node):
            walk(child, holder or node)

    for statement in body:
        walk(statement, None)
    return found


def only(found, name):
    """The only statement that binds `name`; None if there are several."""
    nodes = found.get(name, [])
    return nodes[0] if len(nodes) == 1 else None


class Module:
    """A parsed module."""

    def __init__(self, tree):
        self.names = bindings(tree.body)
        self.body = set(map(id, tree.body))
        self.stored, self.dynamic, self.in_functions, self.handed = set(), False, set(), set()
        reads = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                function = node.func.id if isinstance(node.func, ast.Name) else None
                names = [part for part in node.args if isinstance(part, ast.Name)]
                if function == "vars" and len(names) == 1 and self.plain_class(names[0].id):
                    reads.add(id(node.func))  # of a class: a read-only view
                if function not in HARMLESS:
                    self.handed.update(part.id for part in names)
                    self.handed.update(word.value.id for word in node.keywords if isinstance(word.value, ast.Name))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                if not isinstance(node.ctx, ast.Load):
                    self.stored.add(node.attr)
                if node.attr in MAGIC:
                    self.dynamic = True
            elif isinstance(node, ast.Name) and node.id in MAGIC and id(node) not in reads:
                self.dynamic = True
            elif isinstance(node, ast.Global):
                self.in_functions.update(node.names)
            elif isinstance(node, ast.ImportFrom):
                if any(alias.name in MAGIC for alias in node.names):
                    self.dynamic = True

    def bound(self, name):
        """Whether `name` is bound at the top level: "yes", "no", "unknown"."""
        if name in self.names:
            return "yes"
        if self.dynamic or "*" in self.names or "__getattr__" in self.names or name in self.in_functions:
            return "unknown"
        return "no"

    def plain_class(self, name):
        """The class statement, if it alone defines the name."""
        node = only(self.names, name)
        if not isinstance(node, ast.ClassDef) or id(node) not in self.body or name in self.in_functions:
            return None
        return None if node.decorator_list or node.keywords or getattr(node, "type_params", None) else node

    def chain(self, name, seen=()):
        """[(class statement, its names)] of the class and its bases, in the order of look-up; None if one is unknown."""
        node = None if name in seen else self.plain_class(name)
        if node is None:
            return None
        found = [(node, bindings(node.body))]
        for base in node.bases:
            if not isinstance(base, ast.Name):
                return None
            if base.id == "object" and "object" not in self.names:
                continue
            above = self.chain(base.id, seen + (name,))
            if above is None:
                return None
            found += above
        # With several bases, Python's order is different.
        return found if len(node.bases) < 2 else None


def may_gain(module, chain):
    """Whether other code gets the classes, or the instance during construction, and could add to them."""
    if "__class__" in module.stored:
        return True
    functions = {}
    for node, _ in chain:
        if node.name in module.handed:
            return True
        for part in node.body:
            if isinstance(part, FUNCTIONS):
                functions.setdefault(part.name, []).append(part)
                plain = ("staticmethod", "classmethod", "property")
                if any(not isinstance(one, ast.Name) or one.id not in plain for one in part.decorator_list):
                    return True  # the object from a decorator gets the class (__set_name__)
            elif any(isinstance(inner, ast.Call) for inner in ast.walk(part)):
                return True  # as above
    todo, seen = ["__init__"], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for function in functions.get(name, []):
            first = (getattr(function.args, "posonlyargs", []) + function.args.args)[:1]
            own = first[0].arg if first else None
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and any(isinstance(part, ast.Name) and part.id == own for part in node.args):
                    return True
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == own:
                    todo.append(node.attr)
    return False


def method_state(module, chain, name):
    """The state of `name` as an attribute of an instance."""
    if name in module.stored:
        return "unknown"
    for node, names in chain:
        if name not in names:
            continue
        one = only(names, name)
        if one is None or not any(one is statement for statement in node.body):
            return "unknown"
        if name in DESCRIBES:
            return "there"
        if isinstance(one, ast.ClassDef):
            return "class"
        if isinstance(one, FUNCTIONS):
            decorators = [part.id if isinstance(part, ast.Name) else None for part in one.decorator_list]
            if decorators == ["property"] and "property" not in module.names:
                return "property"
            return "there" if not decorators else "unknown"
        if isinstance(one, (ast.Assign, ast.AnnAssign)):
            if one.value is None:  # an annotation binds nothing
                return "unknown"
            if isinstance(one.value, LITERALS):
                return "value"
        return "unknown"
    return "missing"


def constructor(module, chain):
    """(parameters without a value, offered parameters that are accepted, line); None if unknown."""
    if "__init__" in module.stored or "__new__" in module.stored:
        return None
    for node, names in chain:
        if "__new__" in names or "__call__" in module.stored:
            return None
        if "__init__" not in names:
            continue
        init = only(names, "__init__")
        if not isinstance(init, ast.FunctionDef) or init.decorator_list or not any(init is part for part in node.body):
            return None
        wanted = init.args
        first = list(getattr(wanted, "posonlyargs", []))
        positional = first + wanted.args
        needed = len(positional) - len(wanted.defaults)
        only_by_place = {arg.arg for arg in first}
        lacking = [arg.arg for arg in positional[1:max(needed, 1)] if arg.arg in only_by_place or arg.arg not in GIVEN]
        lacking += [
            arg.arg for arg, default in zip(wanted.kwonlyargs, wanted.kw_defaults) if default is None and arg.arg not in GIVEN
        ]
        named = {arg.arg for arg in positional[1:] + wanted.kwonlyargs} - only_by_place
        given = [name for name in GIVEN if wanted.kwarg or name in named]
        return lacking, given, init.lineno
    return [], [], None


def located(module, search):
    """(state, file): "source", "missing", "namespace" (no `__init__.py`), "unknown" (compiled, or found by code of the package)."""
    path, parts, spec = [search], [], None
    for part in module.split("."):
        parts.append(part)
        spec = PathFinder.find_spec(".".join(parts), path)
        if spec is None:
            return ("missing", None)
        path = spec.submodule_search_locations
        if path is None and len(parts) <= module.count("."):
            return ("missing", None)  # a module instead of a package
    if spec.loader is None or spec.origin is None:
        return ("namespace", None)  # a directory without __init__.py
    return ("source" if isinstance(spec.loader, SourceFileLoader) else "unknown", spec.origin)


def brings_its_own(module, search):
    """Whether a package above the module may create modules dynamically."""
    parts = module.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        state, file = located(".".join(parts[:depth]), search)
        if state == "source":
            with open(file, "rb") as source:
                text = source.read(MAX_SOURCE)
            if any(word in text for word in (b"__path__", b"modules", b"meta_path", b"path_hooks", b"__import__", b"import_module", b"exec")):
                return True
        elif state == "unknown":
            return True
    return False


class ClassReader:
    """Called by the engine, never by a caller."""

    def read(self, module, search, name, methods):
        answer = {"python": list(sys.version_info[:3]), "methods": {}, "class": "unknown", "problem": None}
        try:
            state, file = located(module, search)
            if state == "missing" and brings_its_own(module, search):
                state = "unknown"
            answer["module"], answer["file"] = state, file
            if state == "source":
                with open(file, "rb") as source:
                    text = source.read(MAX_SOURCE + 1)
                if len(text) <= MAX_SOURCE:
                    self.look(answer, text, name, methods)
        except PermissionError as error:
            answer["module"] = "unreadable"
            answer["file"] = os.fsdecode(error.filename or "")
        except (SyntaxError, ValueError) as error:
            answer["problem"] = {"line": getattr(error, "lineno", None) or 1, "message": str(getattr(error, "msg", error))[:400]}
        except RecursionError:
            pass  # nested too deeply to be read
        return answer

    def look(self, answer, text, name, methods):
        found = Module(ast.parse(text))
        bound = found.bound(name)
        answer["class"] = {"yes": "unknown", "no": "missing"}.get(bound, "unknown")
        node = only(found.names, name)
        if node is not None and id(node) in found.body and name not in found.in_functions and not found.dynamic:
            constant = isinstance(node, ast.Assign) and isinstance(node.value, LITERALS)
            if constant or (isinstance(node, FUNCTIONS) and not node.decorator_list):
                answer["class"], answer["class_line"] = "no_class", node.lineno
        if found.plain_class(name) is None:
            return
        answer["class"], answer["class_line"] = "there", found.plain_class(name).lineno
        chain = None if found.dynamic else found.chain(name)
        if chain is None:
            return
        own = {word for _, names in chain for word in names}
        hooks = {"__getattr__", "__getattribute__", "__new__", "__init_subclass__"}
        if not own & hooks and not may_gain(found, chain):
            answer["methods"] = {method: method_state(found, chain, method) for method in methods}
        built = constructor(found, chain)
        if built is not None:
            answer["lacking"], answer["given"], answer["init_line"] = built
