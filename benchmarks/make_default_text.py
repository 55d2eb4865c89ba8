"""Make `autotune/data/default_text.txt`, the calibration text shipped for English text models.

One document per line: WordNet 3.0 glosses with their usage examples (general English, short) and
paragraphs of Python's documentation (technical English, long), drawn with a fixed seed.

    python benchmarks/make_default_text.py --wordnet DIR --python-docs DIR/_sources
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def wordnet_lines(folder: Path) -> list[str]:
    """`word: gloss; examples` for every synset whose gloss has a usage example."""
    lines = []
    for part in ("noun", "verb", "adj", "adv"):
        for row in (folder / f"data.{part}").read_text().splitlines():
            if row.startswith(" ") or '"' not in row:
                continue
            head, gloss = row.split(" | ", 1)
            word = head.split()[4].replace("_", " ").split("(")[0]
            lines.append(f"{word}: {gloss.strip()}")
    return lines


def documentation_lines(folder: Path) -> list[str]:
    """Prose paragraphs of the reST sources, markup removed."""
    lines = []
    for name in sorted(folder.rglob("*.rst.txt")):
        if name.parts[-2] in {"whatsnew", "c-api"}:
            continue
        for paragraph in re.split(r"\n\s*\n", name.read_text()):
            if not re.match(r"[A-Z][a-z]", paragraph) or len(paragraph) < 160:
                continue
            text = re.sub(r":[\w:+-]+:`~?!?([^`<]+?)(?:\s*<[^>]*>)?`", r"\1", paragraph)
            text = re.sub(r"``([^`]*)``|`([^`<]*?)(?:\s*<[^>]*>)?`__?", r"\1\2", text)
            text = " ".join(re.sub(r"\*+|\|", "", text).split()).removesuffix("::")
            if "`" not in text and ".." not in text:
                lines.append(text[:900])
    return lines


def main() -> None:
    """Write the text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--python-docs", type=Path, required=True)
    options = parser.parse_args()
    rng = random.Random(0)
    lines = rng.sample(wordnet_lines(options.wordnet), 1400)
    lines += rng.sample(documentation_lines(options.python_docs), 700)
    rng.shuffle(lines)
    out = ROOT / "autotune" / "data" / "default_text.txt"
    out.write_text("\n".join(lines) + "\n")
    print(f"{out}: {len(lines)} documents, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
