"""The notebook runs from top to bottom on a real run."""

from __future__ import annotations

import nbformat
from nbclient import NotebookClient

from tests.conftest import REPO


def test_the_notebook_tells_the_story_of_the_quickstart(quickstart, monkeypatch):
    folder, _ = quickstart
    monkeypatch.setenv("LAI_RUN", str(folder))
    notebook = nbformat.read(REPO / "notebooks/01_one_mistake.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(REPO / "notebooks"))
    shown = "\n".join(str(output) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    for words in ("the target answers", "the instructor writes", "learned", "image/png", "In-domain".lower()):
        assert words in shown
    saved = nbformat.read(REPO / "notebooks/01_one_mistake.ipynb", as_version=4)
    assert not [cell for cell in saved.cells if cell.get("outputs")], "the notebook is committed without outputs"
