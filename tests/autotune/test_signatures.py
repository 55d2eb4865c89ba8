"""More than two parameters by position are hard to read at a call: the rest go by keyword."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("autotune", "benchmarks", "compress", "devices", "predictor", "profiler", "search")
MOST = 2
# Someone else's code calls these by position, with these parameters.
OUTSIDE = {
    ("ctx", "_", "value"): "callback of a click option",
    ("value", "param", "ctx"): "click.ParamType.convert",
    ("ctx", "param", "incomplete"): "click.ParamType.shell_complete",
    ("scope", "receive", "send"): "an ASGI application",
    ("kind", "error", "trace"): "__exit__",
    ("fullname", "path", "target"): "importlib's MetaPathFinder.find_spec",
    ("func", "types", "args", "kwargs"): "TorchDispatchMode.__torch_dispatch__",
    ("module", "args", "output"): "a forward hook of torch",
    ("ctx", "a", "k", "beta", "form"): "torch.autograd.Function.forward",
    ("trial_id", "state", "values"): "optuna's RDBStorage.set_trial_state_values",
    (
        "m",
        "k",
        "n",
    ): "the sizes of a product (m, k) by (k, n), which every formula names in that order",
}


def positional(function, in_class):
    """Names of the parameters that can be given by position, without self, cls and a leading _."""
    names = [
        arg.arg.lstrip("_") or "_" for arg in (*function.args.posonlyargs, *function.args.args)
    ]
    static = "staticmethod" in map(ast.unparse, function.decorator_list)
    return tuple(names[1:] if in_class and not static else names)


def of_pytest(function):
    """Whether pytest calls it, which passes fixtures by name."""
    marks = map(ast.unparse, function.decorator_list)
    return function.name.startswith("test_") or any("pytest.fixture" in mark for mark in marks)


def functions(tree, in_class=False):
    """(function, whether it is a method) of all functions, nested ones too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, in_class
            yield from functions(node)
        else:
            yield from functions(node, in_class or isinstance(node, ast.ClassDef))


def wide(source):
    """(line, name, parameters) of the functions with more than `MOST`."""
    for node, in_class in functions(ast.parse(source)):
        names = positional(node, in_class)
        if len(names) > MOST and not of_pytest(node):
            yield node.lineno, node.name, names


def product_code():
    for room in ROOMS:
        yield from (ROOT / room).rglob("*.py")


def test_few_parameters_are_positional():
    found, used, files = [], set(), 0
    for path in product_code():
        files += 1
        for line, name, names in wide(path.read_text()):
            used.add(names)
            if names not in OUTSIDE:
                place = f"{path.relative_to(ROOT)}:{line}"
                found.append(f"{place}: {name}({', '.join(names)}): give a * after {names[1]}")
    assert files > 300
    assert found == []
    assert set(OUTSIDE) == used & set(OUTSIDE), "an exception that nothing needs any more"


def test_what_is_counted():
    source = """
def few(a, b, *, c, d): ...
def many(a, b, c=1): ...
class Kind:
    def few(self, a, b): ...
    def many(self, a, b, /, c): ...
    @staticmethod
    def fixed(a, b, c): ...
    @pytest.fixture
    def made(self, a, b, c): ...
    def test_it(self, a, b, c):
        async def inner(self, a, b): ...
"""
    assert [name for _, name, _ in wide(source)] == ["many", "many", "fixed", "inner"]
