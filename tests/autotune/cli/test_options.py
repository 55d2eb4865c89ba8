"""The command line that is derived from the schema: flags, help, completion, stored requests."""

import dataclasses
import json
import sys

import click
import pytest
from click.shell_completion import ShellComplete

from autotune.cli.main import cli as root
from autotune.cli.schema import SchemaOption
from autotune.core.options import entries
from autotune.tuning.request import TuneRequest

# Every flag that `autotune tune` had before options were derived; each keeps its name.
FLAGS = [
    "--model", "-m", "--output", "-o", "--device", "--backend", "--dtype", "--latency-budget",
    "--params-budget", "--memory-budget", "--flops-budget", "--kv-cache-budget",
    "--activation-budget", "--batch-size", "--isl", "--osl", "--phase", "--calibration",
    "--evaluation", "--calibration-samples", "--metric", "--factorizer", "--allocator", "--joint",
    "--no-joint", "--jobs", "--farm", "--token-file", "--storage", "--targets", "--ignore",
    "--sensitivity-rounds", "--trials", "--rounds", "--measure-seconds", "--threads", "--db",
    "--allow-extrapolation", "--seed", "--quiet", "--format",
]  # fmt: skip
BUDGET = ("--latency-budget", "0.9x")


def commands(group, path=()):
    """(words, command) of every command."""
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))
        if not isinstance(found, click.Group) or found.invoke_without_command:
            yield (*path, name), found


def printed(cli, *args):
    done = cli("tune", *args, "--print-request")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_flag_of_before_is_there():
    params = root.get_command(click.Context(root), "tune").params
    known = {name for param in params for name in (*param.opts, *param.secondary_opts)}
    assert set(FLAGS) <= known


@pytest.mark.parametrize("words", [words for words, _ in commands(root)], ids=" ".join)
def test_every_command_has_json_and_its_short_form(words):
    command = dict(commands(root))[words]
    names = {name for param in command.params for name in param.opts}
    assert {"--format", "--json"} <= names
    (choice,) = (p for p in command.params if "--format" in p.opts)
    assert "json" in choice.type.choices


def test_help_shows_ten_options_first_and_the_others_in_groups(cli):
    text = cli("tune", "--help").stdout
    first = text.index("Options that most users need:")
    titles = ["Machine:", "Budgets:", "Workload:", "Calibration:", "Method:", "Search:", "Other"]
    places = [text.index(f"\n{title}") for title in titles]
    assert first < min(places)
    head = text[first : min(places)]
    common = [entry.option.flag for entry in entries(TuneRequest) if entry.option.common]
    assert len(common) == 10
    assert all(f"{flag} " in head for flag in common)
    assert head.count("\n  -") == 10
    for name in ("kfac-seq", "ledoit-wolf", "erc-plc", "als", "remap8", "torch-cudagraph"):
        assert name in text
    assert "--trials" in text[text.index("\nSearch:") :]
    assert "_AUTOTUNE_COMPLETE=bash_source autotune" in cli("--help").stdout


@pytest.mark.parametrize(
    ("args", "incomplete", "some"),
    [
        (["tune", "--metric"], "kf", {"kfac", "kfac-seq"}),
        (["--metric"], "kf", {"kfac", "kfac-seq"}),
        (["--allocator"], "er", {"erc-plc"}),
        (["tune", "--backend"], "onnx", {"onnxruntime-cpu", "onnxruntime-cuda"}),
        (["tune", "--phase"], "", {"prefill", "decode", "request"}),
        (["tune", "--effort"], "q", {"quick"}),
        (["submit", "tune", "--factorizer"], "al", {"als"}),
        ([], "--lat", {"--latency-budget"}),
        ([], "pro", {"profile"}),
        (["tune", "--device"], "h2", {"h200", "h200-sxm"}),
        (["predict", "--device"], "h1", {"h100", "h100-pcie", "h100-sxm"}),
        (["submit", "tune", "--device"], "cp", {"cpu"}),
        (["devices", "show"], "cp", {"cpu"}),
        (["db", "import", "--device"], "cp", {"cpu"}),
        (["predict", "--device"], "cp", {"cpu"}),
    ],
)
def test_names_are_completed(args, incomplete, some):
    found = ShellComplete(root, {}, "autotune", "_AUTOTUNE_COMPLETE")
    names = {item.value for item in found.get_completions(args, incomplete)}
    assert names == some


def test_a_request_is_printed_and_flags_beside_it_win(cli, tmp_path):
    path = tmp_path / "job.json"
    first = printed(cli, *BUDGET, "--effort", "quick", "--targets", "mlp", "--rounds", 6)
    path.write_text(json.dumps(first))
    assert printed(cli, "--request", path) == first
    again = printed(cli, "--request", path, "--trials", 9, "--no-joint", "--isl", 64)
    assert again["search"] == {**first["search"], "trials": 9}
    assert (again["method"]["joint"], again["method"]["targets"]) == (False, ["mlp"])
    assert again["workload"]["sequence_length"] == 64
    thorough = printed(cli, "--request", path, "--effort", "thorough")
    assert (thorough["search"]["trials"], thorough["search"]["rounds"]) == (40, 6)
    path.write_text('{"type": "tune-request", "search": {"trails": 1}}')
    done = cli("tune", "--request", path)
    assert done.returncode == 2
    assert "unknown option 'search.trails'; known are front" in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--trials", "-1"), "--trials must be 0 to 100000, got -1"),
        (("--measure-seconds", "nan"), "--measure-seconds must be a finite number, got nan"),
        (("--jobs", "0"), "--jobs must be 1 to 256, got 0"),
        (("--osl", "4", "--phase", "prefill"), "--osl needs --phase decode or request"),
        (("--calibration-samples", "0"), "--calibration-samples must be 1 or more, got 0"),
        (("--metric", "magic"), "--metric cannot be used: unknown metric 'magic'; known are"),
        (("--allocator", "exact+optuna", "--trials", "0"), "--allocator exact+optuna needs --tri"),
        (("--backend", "nope"), "--backend: unknown backend 'nope'; known are"),
        (("--device", "nope"), "--device: unknown device 'nope'"),
        (("--device", "gpu"), "--device: 'gpu' is no name of a device, and"),
        (("--backend", "onnxruntime-cuda"), "cuda needs an NVIDIA GPU, and --device is cpu"),
        (("--model", "./nope"), "--model: model './nope' does not exist"),
        (("--calibration", "/nope"), "--calibration /nope cannot be read"),
        (("--evaluation", "/nope"), "--evaluation /nope cannot be read"),
        (("--threads", "9999"), "--threads must be 1 to"),
    ],
)
def test_errors_name_the_flag(cli, args, said):
    done = cli(*BUDGET, *args)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("predict", "--tokens", 0, "--shape", "8x8"), "--tokens must be 1 or more, got 0"),
        (("predict", "--tokens", 1, "--shape", "8"), "--shape must be IN_FEATURESxOUT_FEATURES"),
        (("predict", "--tokens", 1, "--shape", "0x8"), "--shape must be IN_FEATURESxOUT_FEATURES"),
        (
            ("predict", "--tokens", 1, "--shape", "8x8", "--rank", 0),
            "--rank must be 1 or more, got 0\n",
        ),
        (("predict", "--tokens", 1, "--shape", "8x8", "--form", "x"), "--form: "),
        (("predict", "--tokens", 1, "--shape", "8x8", "--device", "x"), "--device: unknown device"),
        (("profile", "--tokens", 1), "give --tokens and --shape, or --for, or --plan quick"),
        (("profile", "--tokens", 1, "--shape", "8x8", "--rank", 0), "--rank must be 1 or more"),
        (
            ("profile", "--batch-size", 2, "--tokens", 12, "--shape", "32x32"),
            "--batch-size needs --for",
        ),
        (("profile", "--plan", "quick", "--osl", 4), "--osl needs --for"),
        (("profile", "--plan", "quick", "--backend", "x"), "--backend: unknown backend 'x'"),
        (("profile", "--plan", "quick", "--threads", 9999), "--threads must be 1 to"),
        (("db", "import", "--device", "x"), "--device: unknown device 'x'"),
    ],
)
def test_errors_of_other_commands_name_the_flag(cli, args, said):
    done = cli(*args)
    assert done.returncode == 2
    assert f"autotune: {said}" in done.stderr


def test_a_farm_that_is_no_address_is_refused_by_its_flag(cli, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_FARM_TOKEN", "t" * 32)
    for args in ((*BUDGET,), ("profile", "--plan", "quick")):
        assert "autotune: --farm: 'x' is not a valid address" in cli(*args, "--farm", "x").stderr


def test_an_option_has_one_declaration_in_all_commands():
    """Its text is that of the request; a note in front and what it defaults to may differ."""
    declared = {e.option.flag: e.option for e in entries(TuneRequest) if e.option.flag}
    own = {("submit", "export"), ("export",)}  # say what TensorRT makes of them
    seen = set()
    for words, command in commands(root):
        for param in command.params:
            flag = next((f for f in param.opts if f in declared), None)
            if flag is None or words in own or flag in ("--output", "--model"):
                continue
            if words in (("db", "import"), ("db", "forget")):
                continue  # their device is that of points
            seen.add((words, flag))
            assert isinstance(param, SchemaOption), (words, flag)
            assert param.entry.option.help.endswith(declared[flag].help), (words, flag)
    assert {(("predict",), "--db"), (("profile",), "--farm"), (("serve",), "--db")} <= seen


def test_the_bare_help_shows_the_ten_options_and_where_the_others_are(cli):
    text = cli("--help").stdout
    head = text[text.index("Options that most users need") : text.index("\nCommands:")]
    common = [entry.option.flag for entry in entries(TuneRequest) if entry.option.common]
    assert all(f"{flag} " in head for flag in common)
    assert "`autotune tune --help` lists all" in head
    assert text.index("--latency-budget") < text.index("Commands:")


def test_the_request_of_no_options_is_the_librarys(cli, monkeypatch):
    from autotune.core.types import Budget
    from autotune.tuning.stored_request import request_json

    assert printed(cli, *BUDGET) == request_json(TuneRequest(budget=Budget(latency="0.9x")))


@pytest.mark.parametrize("device", ["cpu", "abacus", "a100"])
def test_an_export_for_a_device_says_which_it_can_be(cli, device, tmp_path):
    done = cli("export", tmp_path, "--format", "tensorrt", "--device", device, "--json")
    said = {
        "cpu": (2, "--device must be `here` or a GPU"),
        "abacus": (2, "abacus"),
        "a100": (4, "not on this machine"),
    }
    assert (done.returncode, said[device][1] in done.stderr) == (said[device][0], True), done.stderr


def test_an_export_takes_file_and_output_formats_together():
    from autotune.cli.options import split_formats

    assert split_formats(()) == ("onnx", "text")
    assert split_formats(("json",)) == ("onnx", "json")
    assert split_formats(("tensorrt", "json")) == ("tensorrt", "json")
    assert split_formats(("json", "tensorrt")) == ("tensorrt", "json")


def test_numbers_are_called_n_and_folders_folder():
    for words, command in commands(root):
        context = click.Context(command, info_name=" ".join(words))
        metavars = {flag: p.make_metavar(context) for p in command.params for flag in p.opts}
        assert metavars.get("--batch-size", "N") == metavars.get("--anchors", "N") == "N", words
        assert metavars.get("folder", "FOLDER") == "FOLDER", words


def test_a_group_lists_whole_summaries(cli):
    for group in ("db", "devices", "keys"):
        assert "..." not in cli(group, "--help").stdout.partition("\nCommands:")[2], group


def test_a_mistyped_command_suggests_the_nearest(cli):
    done = cli("tunee")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such command 'tunee'. Did you mean 'tune'?" in done.stderr
    assert "Did you mean" not in cli("xyzzy").stderr


@pytest.mark.parametrize(
    ("words", "continues"),
    [
        (["tune"], True),
        (["--latency-budget", "0.9x"], True),
        (["profile"], True),
        (["bench", "out"], False),
        (["logs", "1"], False),
    ],
)
def test_only_commands_that_continue_say_so(words, continues, monkeypatch, capsys):
    from autotune.cli import main

    def interrupted(**given):
        raise click.exceptions.Abort

    monkeypatch.setattr(sys, "argv", ["autotune", *words])
    monkeypatch.setattr(root, "main", interrupted)
    assert main._run() == 130
    said = capsys.readouterr().err
    assert said.startswith("autotune: interrupted")
    assert ("the same command continues" in said) == continues


def test_a_prediction_without_width_shows_no_interval():
    from autotune.cli.predict import _interval
    from autotune.core.types import Estimate

    known = Estimate(latency_s=4e-5, low_s=4e-5, high_s=4e-5, ratio=1.0, source="measured")
    assert _interval(known) == ""
    assert _interval(dataclasses.replace(known, high_s=5e-5)) == "(40 us to 50 us)  "


def test_devices_without_tables_say_what_predicts_them(cli):
    lines = {line.split()[0]: line for line in cli("devices").stdout.splitlines()}
    assert lines["t4"].endswith("only with --allow-extrapolation")
    assert lines["a100-sxm"].endswith("predicted from third-party measurements")


def test_an_unknown_option_of_a_request_lists_no_secret(cli, tmp_path):
    path = tmp_path / "job.json"
    path.write_text('{"type": "tune-request", "machine": {"x": 1}}')
    done = cli("--request", path)
    assert "unknown option 'machine.x'; known are allow_extrapolation" in done.stderr
    assert "farm_token" not in done.stderr
    path.write_text('{"type": "result", "model": "x"}')
    assert "is not of type 'tune-request'" in cli("--request", path).stderr
