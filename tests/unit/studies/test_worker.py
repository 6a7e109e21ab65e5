"""The worker's edges: settings refused, marks written as a user's would be."""

import json

import pytest
from joulebook.errors import BadInput
from joulebook_studies.worker import inference_seconds


def test_inference_outlasts_ten_sampling_intervals(monkeypatch):
    monkeypatch.delenv("JOULEBOOK_SAMPLE_SECONDS", raising=False)
    assert inference_seconds() > 10.0
    monkeypatch.setenv("JOULEBOOK_SAMPLE_SECONDS", "0.05")
    assert inference_seconds() > 0.5
    monkeypatch.setenv("JOULEBOOK_SAMPLE_SECONDS", "soon")
    with pytest.raises(BadInput, match="JOULEBOOK_SAMPLE_SECONDS"):
        inference_seconds()


@pytest.mark.study
def test_every_phase_of_the_catalogue_is_marked(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from click.testing import CliRunner
    from joulebook_studies.catalogue import entry_of
    from joulebook_studies.data import FASHION, find_digits
    from joulebook_studies.worker import main

    if not FASHION.is_dir() and find_digits() is None:
        pytest.skip("no image set is installed")
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("JOULEBOOK_AGENT", "off")
    monkeypatch.setenv("JOULEBOOK_RUN_ID", "born-into")
    monkeypatch.setattr("joulebook_studies.worker.inference_seconds", lambda: 0.0)
    monkeypatch.setattr("joulebook_studies.worker.INFERENCE_IMAGES", 250)
    small = ["--train-images", "128", "--test-images", "100", "--epochs", "1", "--cycle-epochs", "1"]
    told = CliRunner().invoke(main, ["--arm", "snapshot", "--seed", "5", *small], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    marks = [
        json.loads(line) for file in (tmp_path / "marks").rglob("*.jsonl") for line in file.read_text().splitlines()
    ]
    begun = [mark for mark in marks if mark["kind"] == "begin"]
    assert list(dict.fromkeys(mark["phase"] for mark in begun)) == list(entry_of("snapshot").phases)
    assert [mark["member"] for mark in begun if mark["phase"] == "train"] == ["0", "1", "2"]
    logged = [mark for mark in marks if mark["kind"] == "log"]
    assert [mark["samples"] for mark in logged][:4] == [128, 128, 128, 100]
    (tested,) = [mark for mark in logged if mark.get("split") == "test"]
    assert tested["quality"]["accuracy"] == pytest.approx(json.loads(told.stdout)["accuracy"], abs=1e-4)
    assert logged[-1]["samples"] == 300  # whole passes over 100 images, 250 asked for
