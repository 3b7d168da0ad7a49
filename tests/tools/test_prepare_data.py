"""`tools/prepare_data.py`: what is there is not prepared again; TensorFlow that is missing is named."""

from __future__ import annotations

from unittest import mock

import prepare_data


def test_what_is_there_is_not_prepared_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare_data, "prepared", lambda *_: "60 train + 10 test examples of image, label")
    monkeypatch.setattr(prepare_data, "prepare", mock.Mock(side_effect=AssertionError))
    for name in ("fashion_mnist", "so2sat/all"):
        assert prepare_data.main([name, f"--data_dir={tmp_path}"]) == 0
        assert f"{name} is there already: 60 train + 10 test examples of image, label." in capsys.readouterr().out


def test_what_preparing_lacks_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare_data, "prepare", mock.Mock(side_effect=ImportError("no tensorflow")))
    assert prepare_data.main(["fashion_mnist", f"--data_dir={tmp_path}"]) == 2
    assert "needs the extra 'prepare' (pip install 'jaxdist[prepare]'): no tensorflow." in capsys.readouterr().err


def test_what_was_prepared_and_cannot_be_read_is_no_success(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare_data, "prepare", mock.Mock())
    assert prepare_data.main(["fashion_mnist", f"--data_dir={tmp_path}"]) == 1
    assert "cannot be read back" in capsys.readouterr().err
