"""The golden clip: the same everywhere, computed by both engines, and a refusal that names what differs."""

from __future__ import annotations

import hashlib
import json
import platform
import re

import numpy as np
import pytest

from acoustic_env.errors import AcousticEnvError
from acoustic_env.features import golden
from acoustic_env.features.block import Columns, Waveforms
from acoustic_env.features.golden import check_golden, golden_clip, golden_numbers
from acoustic_env.features.indices import IndicesBlock
from acoustic_env.features.modulation import ModulationBlock
from acoustic_env.features.registry import make_block, names_where


def test_the_golden_clip_is_the_same_to_the_bit_on_every_machine() -> None:
    clip = golden_clip(16_000)
    assert clip.shape == (1, 32_000)
    assert clip.dtype == np.float32
    digest = hashlib.sha256((clip * 32_768).astype("<i2").tobytes()).hexdigest()
    assert digest[:16] == "c31f647d2f0fcbb8"


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("name", names_where("golden"))
def test_this_machine_computes_the_golden_numbers_with_both_engines(name: str, engine: str) -> None:
    check_golden(make_block(name, engine))


def test_every_number_of_the_golden_clip_is_defined_and_none_is_trivial() -> None:
    numbers = json.loads(golden.GOLDEN_FILE.read_text())
    assert all(
        value is not None for block in numbers.values() for s in block.values() for v in s.values() for value in v
    )
    assert set(numbers["indices 2"]) == {"raw", "fg", "bg"}
    assert len(numbers["mps 1"]["raw"]["mps"]) > 50


def test_a_node_that_computes_something_else_is_refused_by_name_with_column_and_both_values() -> None:
    class Drifted(IndicesBlock):
        def compute(self, waveforms: Waveforms) -> Columns:
            columns = super().compute(waveforms)
            return {**columns, "ACI": columns["ACI"] * (1 + 3e-5)}

    expected = golden_numbers(IndicesBlock("fast"))["raw"]["ACI"][0]
    with pytest.raises(AcousticEnvError) as refusal:
        check_golden(Drifted("fast"))
    message = str(refusal.value)
    here, there = re.search(r"raw\.ACI of the golden clip is ([\d.]+) here and must be ([\d.]+);", message).groups()
    assert float(here) == pytest.approx(expected * (1 + 3e-5), rel=1e-9)
    assert float(there) == pytest.approx(expected, rel=1e-9)
    assert platform.node() in message


def test_one_wrong_cell_of_a_vector_and_one_undefined_number_are_refused() -> None:
    class OneCell(ModulationBlock):
        def compute(self, waveforms: Waveforms) -> Columns:
            maps = super().compute(waveforms)["mps"]
            maps[:, 131] *= 1.001
            return {"mps": maps}

    class Undefined(IndicesBlock):
        def compute(self, waveforms: Waveforms) -> Columns:
            return {**super().compute(waveforms), "BI": np.full(len(waveforms), np.nan)}

    with pytest.raises(AcousticEnvError, match=r"raw\.mps \(number 1 "):
        check_golden(OneCell("fast"))
    with pytest.raises(AcousticEnvError, match=r"raw\.BI .* is nan here"):
        check_golden(Undefined("fast"))


def test_a_raised_version_without_golden_numbers_is_refused_until_they_are_written() -> None:
    class Newer(IndicesBlock):
        version = 99

    with pytest.raises(AcousticEnvError, match="version 99"):
        check_golden(Newer("fast"))


def test_blocks_with_weights_have_no_golden_numbers_and_pass() -> None:
    class Weighted(IndicesBlock):
        name = "weighted"
        golden = False

    check_golden(Weighted("fast"))
