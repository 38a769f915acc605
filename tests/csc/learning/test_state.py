"""States of dictionary learning in files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from csc import learn_dictionary
from csc.learning.state import load, save
from tests.csc.learning.test_learn import equal, planted, seed, start


def test_a_state_survives_its_file(tmp_path: Path) -> None:
    """Bit for bit, with its numbers; the run that resumes from it is the uninterrupted one."""
    x, _ = planted()
    options = {"lam": torch.tensor([0.1, 1 / 3, 0.05], dtype=torch.float64), "forgetting": 0.1}
    file = tmp_path / "state.safetensors"
    heard = []
    whole = learn_dictionary(
        x, start(), passes=2, generator=seed(), on_step=heard.append, **options
    )
    save(file, whole.state)
    save(file, heard[2].state)  # replaces the file
    state = load(file)
    assert equal(state, heard[2].state)
    assert equal(learn_dictionary(x, start(), passes=2, state=state, **options).state, whole.state)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_files_without_a_state_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    with pytest.raises(FileNotFoundError):
        load(file)
    file.write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="holds no state of dictionary learning"):
        load(file)
    save_file({"D": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="holds no state of dictionary learning"):
        load(file)
    save_file({"D": torch.zeros(1)}, file, {"learning": "{}"})
    with pytest.raises(ValueError, match=r"the state in the file lacks \['A', 'B', 'begun'"):
        load(file)
    state = learn_dictionary(planted()[0], start(), 0.05, passes=1).state
    with pytest.raises(ValueError, match="state has A of shape"):
        save(tmp_path / "no.safetensors", {**state, "A": state["B"]})
    assert not (tmp_path / "no.safetensors").exists()
