"""Progress where nobody looks at a terminal."""

from autotune.core.progress.terminal import TerminalReporter


def test_lines_are_not_wrapped_where_there_is_no_terminal(capsys):
    reporter = TerminalReporter()
    with reporter.stage("stage " * 40):
        reporter.note("a long note " * 20)
    assert [len(line) for line in capsys.readouterr().err.splitlines()] == [240, 240]
