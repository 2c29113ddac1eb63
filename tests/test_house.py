"""The layout rules of the package: which room may import which, who knows Ray, and that all code has a user."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "acoustic_env"

# A room imports only from rooms above it; the last line is one level, since `demo` runs the other commands by `cli`.
FOUNDATIONS = ("errors", "registry", "memory")
ROOMS = (
    *(
        "recipes",
        "config",
        "options",
        "io",
        "stats",
        "audio",
        "clips",
        "features",
        "store",
        "pipeline",
        "models",
        "audit",
        "search",
    ),
    *("explain", "report", "web"),
)
DOORS = ("api", "study", "commands", "cli")

# A recipe's classifier is read by the settings of its kind, which `config` loads by name: a plug-in, as those of users.
PLUG_INS = (("config", "acoustic_env.models.estimators"),)

KNOWS_RAY = ("pipeline/", "models/training/on_ray.py", "models/tune.py", "web/serve.py")


class Import(NamedTuple):
    """One import statement's target; `place` is the importing file and line."""

    place: str
    importer: str
    target: str


@cache
def modules() -> dict[str, ast.Module]:
    """Path below the package -> its syntax tree."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {str(file.relative_to(PACKAGE)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def imports() -> Iterator[Import]:
    """Find every import of the package, those inside functions too, and modules that strings name.

    A string names a module when a registry or `import_module` is given it; of an f-string the beginning counts.
    """
    for path, tree in modules().items():
        for node in ast.walk(tree):
            for target in _targets(node):
                yield Import(f"acoustic_env/{path}:{getattr(node, 'lineno', 0)}", path, target)


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "relative import: name the package"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    match node:
        case ast.Constant(value=str(text)):
            return re.findall(
                r"^(acoustic_env(?!\.cli$)(?:\.\w+)+)(?::\w+)?$", text
            )  # `python -m acoustic_env.cli` is no import
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), ast.FormattedValue(), *_]):
            return re.findall(r"^(acoustic_env(?:\.\w+)+)\.$", text)
    return []


def _level(room: str) -> int:
    if room in FOUNDATIONS:
        return 0
    return 1 + ROOMS.index(room) if room in ROOMS else 1 + len(ROOMS)


def test_every_room_is_in_the_list_of_rooms() -> None:
    rooms = {path.partition("/")[0].removesuffix(".py") for path in modules()} - {"__init__"}
    assert rooms <= {*FOUNDATIONS, *ROOMS, *DOORS}


def test_a_room_imports_only_from_rooms_above_it() -> None:
    wrong = []
    for found in imports():
        package, _, rest = found.target.partition(".")
        if package != "acoustic_env" or found.importer == "__init__.py":
            continue
        if (found.importer.removesuffix(".py"), found.target) in PLUG_INS:
            continue
        own, other = found.importer.partition("/")[0].removesuffix(".py"), rest.partition(".")[0]
        known = other in (*FOUNDATIONS, *ROOMS, *DOORS)
        if known and own != other and _level(other) >= max(_level(own), 1) and not (own in DOORS and other in DOORS):
            wrong.append(f"{found.place}: {own} imports {other}, which is below it")
    assert not wrong, "\n".join(wrong)


MODEL_ROOMS = ("data", "training", "estimators", "validation")  # then the modules beside them


def test_a_room_of_models_imports_only_from_rooms_above_it() -> None:
    def level(parts: list[str]) -> int:
        return MODEL_ROOMS.index(parts[0]) if parts[0] in MODEL_ROOMS else len(MODEL_ROOMS)

    wrong = []
    for found in imports():
        if found.importer.startswith("models/") and found.target.startswith("acoustic_env.models."):
            own, other = found.importer.split("/")[1:], found.target.split(".")[2:]
            if level(other) > level(own):
                wrong.append(f"{found.place} imports {found.target}, which is below it")
    assert not wrong, "\n".join(wrong)


def test_no_modules_of_models_import_each_other() -> None:
    files = [path for path in modules() if path.startswith("models/")]
    names = {path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in files}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for found in imports():
        own = found.importer.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        target = found.target.removeprefix("acoustic_env.")
        for other in (target, target.rpartition(".")[0]):
            if own in names and other in names and other != own:
                graph[own].add(other)
                break
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    # What is left imports a cycle; only what is imported by others of it is in one.
    while roots := graph.keys() - {other for others in graph.values() for other in others}:
        graph = {name: others for name, others in graph.items() if name not in roots}
    assert not graph, graph


def test_a_module_named_in_a_string_counts_as_imported() -> None:
    text = 'import_module("acoustic_env.audio.signals"), {"a": "acoustic_env.x.y:Z"}, f"acoustic_env.models.{name}:A"'
    targets = {target for node in ast.walk(ast.parse(text)) for target in _targets(node)}
    assert targets == {"acoustic_env.audio.signals", "acoustic_env.x.y", "acoustic_env.models"}


def test_jobs_import_the_command_line_alone() -> None:
    for file in sorted((ROOT / "jobs").glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        targets = [target for node in ast.walk(tree) for target in _targets(node)]
        assert {name for name in targets if name.startswith("acoustic_env")} <= {"acoustic_env.cli.main"}, file


def test_only_the_pipeline_training_and_serving_know_ray() -> None:
    wrong = [
        f"{found.place}: {found.target}"
        for found in imports()
        if found.target.partition(".")[0] == "ray" and not found.importer.startswith(KNOWS_RAY)
    ]
    assert not wrong, "\n".join(wrong)


def test_only_public_names_of_ray_are_used() -> None:
    wrong = [f"{found.place}: {found.target}" for found in imports() if re.match(r"ray\..*\b_", found.target)]
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match(r"ray\.(.*\.)?_[a-z]", ast.unparse(node)):
                wrong.append(f"acoustic_env/{path}:{node.lineno}: {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


class Definition(NamedTuple):
    """A top-level function, class or constant, or a method; `words` are the names that its code mentions."""

    place: str
    owner: str | None
    name: str
    words: frozenset[str]


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def _words(*nodes: ast.AST) -> frozenset[str]:
    """Names that code mentions, those in strings of registries too, docstrings left out."""
    found: set[str] = set()
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                found.add(name)
            case ast.Expr(value=ast.Constant()):
                pass
            case ast.Constant(value=str(text)) if text.isidentifier() or re.fullmatch(r"[\w.]+:[\w.]+", text):
                found |= set(re.findall(r"\w+", text))
    return frozenset(found)


def _definitions(path: str, tree: ast.Module) -> Iterator[Definition]:
    """Split a module; what runs at import has an empty name."""
    for node in tree.body:
        place = f"acoustic_env/{path}:{node.lineno}"
        match node:
            case ast.Import() | ast.ImportFrom():
                pass
            case ast.ClassDef():
                methods = [inner for inner in node.body if isinstance(inner, FUNCTION)]
                fields = [inner for inner in node.body if not isinstance(inner, FUNCTION)]
                head = [*node.bases, *node.decorator_list, *node.keywords, *fields]
                yield Definition(place, None, node.name, _words(*head))
                for method in methods:
                    where = f"acoustic_env/{path}:{method.lineno}"
                    yield Definition(where, node.name, method.name, _words(method))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield Definition(place, None, node.name, _words(node))
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield Definition(place, None, name, _words(node) - {name})
            case _:
                yield Definition(place, None, "", _words(node))


def unused() -> list[str]:
    """Find what cannot be reached by name from import-time code, jobs, entry points, templates, docs and the API.

    A name counts as used wherever any reachable code mentions it, so a false alarm is rare and a dead twin may hide.
    Methods of a class with a base from elsewhere may be called from there, and count as used.
    """
    definitions = [found for path, tree in modules().items() for found in _definitions(path, tree)]
    named = {found.name for found in definitions}
    bases = {
        node.name: _words(*node.bases)
        for tree in modules().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    inherits: set[str] = set()
    while more := {name for name, words in bases.items() if words - named or words & inherits} - inherits:
        inherits |= more
    reached: set[str] = {"main", "__version__", "__all__", "__getattr__", "__dir__"}
    for file in (ROOT / "jobs").glob("*.py"):
        reached |= _words(ast.parse(file.read_text(encoding="utf-8")))
    for file in PACKAGE.rglob("*.html"):
        for expression in re.findall(r"{[{%](.*?)[%}]}", file.read_text(encoding="utf-8")):
            reached |= set(re.findall(r"\w+", expression))
    for file in (ROOT / "docs").rglob("*.md"):
        reached |= {
            name
            for found in re.findall(r"acoustic_env[\w.]*(?: import [\w, ]+)?", file.read_text(encoding="utf-8"))
            for name in re.findall(r"\w+", found)
        }
    waiting = definitions
    while True:
        live = [found for found in waiting if _is_reached(found, reached, inherits)]
        if not live:
            break
        waiting = [found for found in waiting if not _is_reached(found, reached, inherits)]
        reached |= {name for found in live for name in found.words}
    dead = {found.name for found in waiting if found.owner is None}
    return [f"{found.place}: {found.name}" for found in waiting if found.owner not in dead]


def _is_reached(found: Definition, reached: set[str], inherits: set[str]) -> bool:
    if found.owner is None:
        return not found.name or found.name in reached
    special = found.name.startswith("__") or found.owner in inherits
    return found.owner in reached and (special or found.name in reached)


def test_no_code_is_reachable_only_from_tests() -> None:
    assert not unused(), "\n".join(unused())
