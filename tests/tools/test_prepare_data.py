"""`tools/prepare_data.py`: what is there is not prepared again; TensorFlow that is missing is named."""

from __future__ import annotations

from unittest import mock

import prepare_data

from jaxdist.errors import UsageError


def test_what_is_there_is_not_prepared_again(tmp_path, monkeypatch, capsys):
    found = mock.Mock(train=range(60), evaluation=range(10))
    monkeypatch.setattr(prepare_data, "read_tfds", lambda *_: found)
    monkeypatch.setattr(prepare_data, "prepare", mock.Mock(side_effect=AssertionError))
    assert prepare_data.main(["fashion_mnist", f"--data_dir={tmp_path}"]) == 0
    assert "fashion_mnist is there already: 60 + 10 examples." in capsys.readouterr().out


def test_what_preparing_lacks_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare_data, "read_tfds", mock.Mock(side_effect=UsageError("not there")))
    monkeypatch.setattr(prepare_data, "prepare", mock.Mock(side_effect=ImportError("no tensorflow")))
    assert prepare_data.main(["fashion_mnist", f"--data_dir={tmp_path}"]) == 2
    assert "needs the extra 'prepare' (pip install 'jaxdist[prepare]'): no tensorflow." in capsys.readouterr().err
