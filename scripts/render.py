"""Write the tables of the README from results/*.json.

python scripts/render.py
"""

from pathlib import Path

from e2evit.report import render_readme

ROOT = Path(__file__).parents[1]


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(render_readme(readme.read_text(), ROOT / "results"))


if __name__ == "__main__":
    main()
