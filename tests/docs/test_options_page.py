"""The reference page of options is what the schemas generate."""

from autotune.cli.reference import page
from tests.docs.pages import ROOT


def test_the_page_is_what_the_schemas_generate():
    text = (ROOT / "docs" / "options.md").read_text()
    assert text == page(), "run `python -m autotune.cli.reference > docs/options.md`"
