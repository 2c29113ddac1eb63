"""The stage `gpu` of the benchmark, computed on a processor, since what it reckons is the same there."""

from __future__ import annotations

import pytest

from acoustic_env.bench import clips, gpu
from acoustic_env.bench.clips import bench_clips as material_of
from acoustic_env.bench.gpu import measure_gpu
from acoustic_env.commands.bench import _gpu_lines


@pytest.mark.slow
def test_rates_follow_from_what_each_part_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACOUSTIC_ENV_TEST_DATA", raising=False)
    monkeypatch.setattr(clips, "CLIP_SECONDS", 1.0)
    monkeypatch.setattr(gpu, "GPU_CLIPS", 1)
    monkeypatch.setattr(gpu, "RUNS", 1)
    with material_of(1) as material:
        result = measure_gpu(material.clips(1), "cpu", lambda _: None)
    each = {part.part: part.s_per_clip for part in result.parts}
    places = {part.part: part.place for part in result.parts}
    on_gpu = ("modulation", "vggish", "yamnet", "panns", "mn04")
    assert [name for name, place in places.items() if place == "cpu"] == ["decode", "separation", "indices"]
    assert [name for name, place in places.items() if place == "gpu"] == list(on_gpu)
    assert all(seconds > 0 for seconds in each.values())
    for rate, parts in ((result.dsp, ("modulation",)), (result.dsp_and_networks, on_gpu)):
        assert rate.parts == parts
        assert rate.clips_per_second == pytest.approx(1 / sum(each[name] for name in parts))
        assert rate.decode_cores == pytest.approx(rate.clips_per_second * each["decode"])
        assert rate.dsp_cores == pytest.approx(rate.clips_per_second * (each["separation"] + each["indices"]))
    assert f"the DSP: {result.dsp.clips_per_second:.0f} clips/s of the GPU" in "\n".join(_gpu_lines(result))
