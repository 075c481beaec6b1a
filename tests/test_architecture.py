"""The laws of ARCHITECTURE.md, checked by reading the source: layers, budgets, closed records, nothing dangerous.

None has a list of exceptions. A law that is in the way is changed here, in the open, or the code is.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "steersman"
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}

# From the ground up. A room imports itself and what lies below it; rooms of one level do not know one another.
LEVELS = (
    {"errors"},
    {"types"},
    {"store", "stats", "terminal", "yaml_lines", "provenance", "functional", "typography", "reasoning", "http_server"},
    {"lm", "data"},
    {"train", "constitution", "rating", "evals", "values"},  # the methods
    {"interp"},
    {"guard", "serving", "redteam"},
    {"report", "recipe"},
    {"cost"},
    {"stage"},
    {"stages"},
    {"pipeline"},
    {"plan", "runs", "sweep"},
    {"cli"},
    {"inspect", "__main__"},
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

LINES_OF_A_FUNCTION = 60
LINES_OF_A_FILE = 500
HELP_S = 1.0
HEAVY = ("torch", "transformers", "peft", "scipy", "numpy", "sklearn", "sqlalchemy", "starlette", "uvicorn", "jinja2")
NETWORK = ("requests", "httpx", "httpcore2", "aiohttp", "openai", "urllib", "http", "socket", "ftplib", "smtplib")
# What takes connections, and the databases that may be elsewhere, by the rooms that may use them.
SERVERS = {
    "uvicorn": ("http_server",),
    "starlette": ("rating", "guard", "serving"),
    "sqlalchemy": ("rating",),
    "psycopg": ("rating",),
    "fastapi": (),
}
TRACKERS = ("wandb", "mlflow", "tensorboard", "comet_ml", "neptune", "trackio", "sentry_sdk", "posthog", "segment")
PICKLES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    """`lm/head.py` is in the room `lm`, `cli.py` in `cli`; the package's own `__init__` is its public face."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the layers"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def text_files() -> list[Path]:
    """The files of the repository that hold text: all but what .gitignore names."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if f != ".git" and not any(Path(f).match(pattern) for pattern in ignored)]
        found += [Path(folder, f) for f in files if not any(Path(f).match(pattern) for pattern in ignored)]
    return [path for path in found if b"\0" not in path.read_bytes()[:1024]]


# ── layers ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_room_has_a_level() -> None:
    rooms = {room_of(path) for path in MODULES} - {""}
    assert rooms <= set(LEVEL_OF), f"rooms without a level: {sorted(rooms - set(LEVEL_OF))}"
    assert set(LEVEL_OF) <= rooms, f"levels for rooms that do not exist: {sorted(set(LEVEL_OF) - rooms)}"


def test_layers_point_down() -> None:
    wrong = []
    for path, tree in TREES.items():
        mine = room_of(path)
        for line, name in imports(tree):
            package, *parts = name.split(".")
            if package != "steersman" or not mine or parts == ["__version__"]:
                continue
            theirs = parts[0] if parts else ""
            if theirs != mine and LEVEL_OF.get(theirs, len(LEVELS)) >= LEVEL_OF[mine]:
                wrong.append(f"{name_of(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_arithmetic_lives_once() -> None:
    """Log-probabilities are taken in `lm` (heads, sampling) and shared sums in `functional`, never in a method."""
    banned = {"log_softmax", "logsumexp", "cross_entropy", "logsigmoid", "nll_loss"}
    wrong = [
        f"{name_of(path)}:{line} calls {name}"
        for path, tree in TREES.items()
        if room_of(path) in ("train", "evals", "rating", "constitution")
        for line, name in calls(tree)
        if name.split(".")[-1] in banned
    ]
    assert not wrong, "\n".join(wrong)


def test_only_pipeline_and_plan_know_the_order_of_the_stages() -> None:
    knowing = {room_of(path) for path in MODULES if re.search(r"\bSTAGES\b", path.read_text(encoding="utf-8"))}
    assert knowing <= {"pipeline", "plan"}


# ── budgets and form ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("top", ["src", "tests", "benchmarks"])
def test_functions_and_files_are_small(top: str) -> None:
    wrong = []
    for path in sorted((ROOT / top).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > LINES_OF_A_FILE:
            wrong.append(f"{name_of(path)} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LINES_OF_A_FUNCTION:
                    wrong.append(f"{name_of(path)}:{node.lineno} {node.name} has {length} lines")
    assert not wrong, "\n".join(wrong)


def test_modules_say_what_they_are_for() -> None:
    wrong = [name_of(path) for path, tree in TREES.items() if len((ast.get_docstring(tree) or "").split()) < 4]
    assert not wrong, wrong


def test_benchmarks_import_what_exists() -> None:
    """Nothing else runs the scripts of benchmarks/ in the fast tier, and a moved name would break them unseen."""
    missing = []
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "steersman":
                module = importlib.import_module(str(node.module))
                for name in (alias.name for alias in node.names):
                    submodule = hasattr(module, "__path__") and importlib.util.find_spec(f"{node.module}.{name}")
                    if not hasattr(module, name) and not submodule:
                        missing.append(f"{name_of(path)}:{node.lineno} imports {name} from {node.module}")
    assert not missing, "\n".join(missing)


def test_no_stubs() -> None:
    """Only rooms that are built exist: no module of a docstring alone, no function that does nothing.

    The methods of a Protocol are a description; they have nothing to do.
    """
    wrong = []
    for path, tree in TREES.items():
        if path.name != "__init__.py" and len(tree.body) < 2:
            wrong.append(f"{name_of(path)} is empty")
        protocols = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and "Protocol" in _bases(node)]
        described = {id(node) for protocol in protocols for node in ast.walk(protocol)}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and id(node) not in described:
                body = [statement for statement in node.body if not _is_constant(statement)]
                if all(isinstance(s, ast.Pass) or "NotImplementedError" in ast.unparse(s) for s in body):
                    wrong.append(f"{name_of(path)}:{node.lineno} {node.name} does nothing")
    assert not wrong, "\n".join(wrong)


def _bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).split(".")[-1] for base in node.bases]


def _is_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def test_no_empty_rooms() -> None:
    for top in ("src", "docs", "recipes", "tests"):
        for folder, folders, files in os.walk(ROOT / top):
            folders[:] = [f for f in folders if f != "__pycache__"]
            assert files or folders, f"{folder} is an empty folder"
    for path in PACKAGE.rglob("__init__.py"):
        rest = [p for p in path.parent.iterdir() if p.suffix == ".py" and p != path]
        assert rest, f"{name_of(path.parent)} has no module"


def test_no_drawer_for_odds_and_ends() -> None:
    drawers = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert not [name_of(path) for path in MODULES if path.name in drawers]


def test_configuration_is_frozen_and_closed() -> None:
    """Only `types.Record` derives from pydantic's BaseModel, and it is frozen and closed; all others derive from it."""
    from steersman.types import Record

    assert Record.model_config["frozen"] is True
    assert Record.model_config["extra"] == "forbid"
    own = [
        f"{name_of(path)}: {node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).split(".")[-1] == "BaseModel" for base in node.bases)
    ]
    assert own == ["src/steersman/types.py: Record"]
    reopened = [
        f"{name_of(path)}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and "model_config" in [ast.unparse(target) for target in node.targets]
    ]
    assert len(reopened) == 1, reopened


# ── nothing dangerous ────────────────────────────────────────────────────────────────────────────────────────────────
def test_nothing_runs_or_unpickles_what_it_reads() -> None:
    wrong = []
    for path, tree in TREES.items():
        for line, name in calls(tree):
            if name in ("eval", "exec", "compile", "__import__", "torch.load", "yaml.load", "yaml.unsafe_load"):
                wrong.append(f"{name_of(path)}:{line} calls {name}")
            if name.split(".")[0] == "os" and name.split(".")[-1] in ("system", "popen"):
                wrong.append(f"{name_of(path)}:{line} calls {name}")
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "weights_only", "shell"):
                setting = f"{node.arg}={ast.unparse(node.value)}"
                wrong += (
                    [] if setting == "trust_remote_code=False" else [f"{name_of(path)}:{node.value.lineno} {setting}"]
                )
        for line, name in imports(tree):
            if name.split(".")[0] in PICKLES:
                wrong.append(f"{name_of(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_code_in_model_folders_is_refused_without_asking() -> None:
    """Left unset, `transformers` asks at the terminal whether to run a folder's code, and "y" runs it.

    `pretrained.SAFE` refuses: the only name SAFE that the package binds, as a plain dictionary.
    """
    safe = [
        (name_of(path), node)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "SAFE" and not isinstance(node.ctx, ast.Load)
    ]
    assert [where for where, _ in safe] == ["src/steersman/lm/pretrained.py"]
    bound = [node.value for node in TREES[PACKAGE / "lm" / "pretrained.py"].body if _binds(node, safe[0][1])]
    assert ast.literal_eval(bound[0])["trust_remote_code"] is False
    wrong = [
        f"{name_of(path)}:{node.lineno} {ast.unparse(node.func)} lacks trust_remote_code=False"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and re.search(r"\bAuto\w+\.from_pretrained$", ast.unparse(node.func))
        and not any(_refuses_code(keyword) for keyword in node.keywords)
    ]
    assert not wrong, "\n".join(wrong)


def _binds(node: ast.stmt, name: ast.Name) -> bool:
    return isinstance(node, ast.AnnAssign) and node.target is name


def _refuses_code(keyword: ast.keyword) -> bool:
    """``trust_remote_code=False``, or ``**SAFE``; were it given twice, Python would refuse the call."""
    return ast.unparse(keyword) in ("trust_remote_code=False", "**SAFE", "**pretrained.SAFE")


def test_nothing_is_sent_anywhere() -> None:
    """No tracker but by `steersman track`, and three modules with a network library: the Hub's client to download
    models and to upload an export where `--push` asks for it, an HTTP client to ask the endpoint that a recipe names,
    and one for the upstream of the guard's gateway.

    `rating` may keep its votes in a database server that its user names. Of `socket` servers use the binding of an
    address, in one file; `rating` names its type.
    """
    allowed = {
        "huggingface_hub": (PACKAGE / "lm" / "hub.py",),
        "httpx2": (PACKAGE / "lm" / "endpoint" / "client.py", PACKAGE / "guard" / "gateway" / "upstream.py"),
        "socket": (PACKAGE / "http_server.py", PACKAGE / "rating" / "app.py"),
    }
    wrong = []
    for path, tree in TREES.items():
        for line, name in imports(tree):
            top = name.split(".")[0]
            serves = top in SERVERS and room_of(path) not in SERVERS[top]
            if (top in (*NETWORK, *TRACKERS, *allowed) and path not in allowed.get(top, ())) or serves:
                wrong.append(f"{name_of(path)}:{line} imports {name}")
    opened = [
        f"{name_of(path)}:{line} calls {name}"
        for path, tree in TREES.items()
        for line, name in calls(tree)
        if name.split(".")[-1] in ("connect_ex", "create_connection", "open_connection", "sendto")
    ]
    assert not wrong + opened, "\n".join(wrong + opened)


# Taken apart, so that this file does not hold what it forbids.
MACHINE = re.compile(r"(?<![\w.~>])/(?:work|root|home|opt)/\w|file:" + r"//\S")
SOURCES = re.compile("index" + "-url|find" + "-links|trusted" + "-host")


def test_no_trace_of_the_machine_it_was_written_on() -> None:
    wrong = []
    for path in text_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if found := MACHINE.search(line) or SOURCES.search(line):
                wrong.append(f"{name_of(path)}:{number} {found.group()!r}")
    assert not wrong, "\n".join(wrong)


# ── the public face ──────────────────────────────────────────────────────────────────────────────────────────────────
def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


LOADED = f"print('HEAVY', *sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY!r})))"


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (f"import sys, steersman; {LOADED}", ()),
        (f"import sys\nfrom steersman.cli import main\ntry: main()\nfinally: {LOADED}", ("--help",)),
        (f"import sys\nfrom steersman.cli import main\ntry: main()\nfinally: {LOADED}", ("align", "--help")),
        (
            f"import sys\nfrom steersman.cli import main\ntry: main()\nfinally: {LOADED}",
            ("constitution", "judge", "--help"),
        ),
    ],
    ids=["import", "help", "help of a command", "help of a subcommand"],
)
def test_no_torch_before_it_is_needed(code: str, arguments: tuple[str, ...]) -> None:
    done = python(code, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY", done.stdout.splitlines()[-1]


def test_help_is_quick() -> None:
    """The median of three. It takes about 0.2 s on two cores; the limit is there to catch an import of torch."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert python("from steersman.cli import main; main()", "--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < HELP_S, seconds


def test_public_names_resolve() -> None:
    import steersman

    assert len(set(steersman.__all__)) == len(steersman.__all__)
    for name in steersman.__all__:
        assert getattr(steersman, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = steersman.nothing


def test_shipped_recipes_load() -> None:
    import steersman
    from steersman.recipe import recipes

    assert {"laptop", "smoke"} <= set(recipes())
    for name in recipes():
        assert steersman.load_recipe(name).name == name


def test_the_tested_set_pins_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    pinned = {_canonical(pin.split("==")[0]) for pin in pins}
    names = [_canonical(re.match(r"[\w.-]+", requirement).group()) for requirement in wanted]  # type: ignore[union-attr]
    assert [name for name in names if name not in pinned] == []
    assert "steersman" not in pinned


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
