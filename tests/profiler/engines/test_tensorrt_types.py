"""Every call of ours against the real TensorRT wheel, whose signatures are read from its library.

The bindings import with libraries that hold nothing but the few names they link to.
"""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import autotune.profiler.engines

NAMES = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
SCRIPTS = Path(autotune.profiler.engines.__file__).parent


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """A package `tensorrt` of type stubs."""
    found = importlib.util.find_spec("tensorrt_bindings")
    if found is None or shutil.which("gcc") is None:
        pytest.skip("needs tensorrt-cu13-bindings and gcc")
    folder = tmp_path_factory.mktemp("stubs")
    (folder / "empty.c").write_text(
        "".join(f"void *{name}(void) {{ return 0; }}\n" for name in NAMES)
    )
    library = next(Path(found.origin).parent.glob("tensorrt*.so")).read_bytes()
    for name in ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin"):
        start = library.index(f"{name}.so.".encode())
        soname = library[start : library.index(b"\0", start)].decode()
        subprocess.run(
            [
                "gcc",
                "-shared",
                "-fPIC",
                f"-Wl,-soname,{soname}",
                "-o",
                folder / soname,
                folder / "empty.c",
            ],
            check=True,
        )
    stubgen = [Path(sys.executable).with_name("stubgen"), "-o", folder / "out"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    for more in (
        ["-m", "tensorrt_bindings"],
        ["--inspect-mode", "-m", "tensorrt_bindings.tensorrt"],
    ):
        subprocess.run([*stubgen, *more], check=True, env=environment, capture_output=True)
    made = folder / "out" / "tensorrt_bindings"
    for path in made.rglob("*.pyi"):
        lines = path.read_text().replace("tensorrt_bindings", "tensorrt").splitlines()
        path.write_text("\n".join(map(mended, lines)))
    made.rename(folder / "out" / "tensorrt")
    return folder / "out"


def mended(line):
    """pybind11 may give a default before a parameter without one, which Python has no words for."""
    try:
        if line.strip().startswith("def "):
            ast.parse(line.strip())
    except SyntaxError:
        return line.replace(" = ...", "")
    return line


def errors(stubs, *scripts):
    """What mypy says of our files; the stubs themselves are as they are."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            os.devnull,
            "--check-untyped-defs",
            "--no-site-packages",
            "--ignore-missing-imports",
            "--cache-dir",
            str(stubs.parent / "cache"),
            *map(str, scripts),
        ],
        env={**os.environ, "MYPYPATH": str(stubs)},
        capture_output=True,
        text=True,
    )
    assert "checked" in done.stdout, done.stdout
    return [line for line in done.stdout.splitlines() if "engine.py" in line and "error" in line]


@pytest.mark.slow
def test_calls_agree_with_the_wheel(stubs):
    assert "\n".join(errors(stubs, *SCRIPTS.glob("*_engine.py"))) == ""


@pytest.mark.slow
def test_wrong_calls_would_be_found(stubs, tmp_path):
    source = (SCRIPTS / "build_engine.py").read_text()
    wrong = {
        "builder.create_optimization_profile()": "builder.create_optimisation_profile()",
        "trt.OnnxParser(network, logger)": "trt.OnnxParser(network)",
        "network_flags())": "network_flags(), 1)",
    }
    for right, changed in wrong.items():
        assert right in source
        source = source.replace(right, changed)
    (tmp_path / "build_engine.py").write_text(source)
    assert len(errors(stubs, tmp_path / "build_engine.py")) == len(wrong)
