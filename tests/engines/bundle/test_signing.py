"""A required signature holds for one key and for these very bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.bundle.signing import check_private_key
from radixrt.errors import InputError
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import write_bundle
from tests.photographs import write_image

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")


def make_keys(folder: Path, name: str, key: object = None, private_format: str = "PKCS8") -> tuple[Path, Path]:
    key = key or ed25519.Ed25519PrivateKey.generate()
    openssh = private_format == "OpenSSH"
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(  # type: ignore[attr-defined]
            serialization.Encoding.PEM,
            getattr(serialization.PrivateFormat, private_format),
            serialization.NoEncryption(),
        )
    )
    encoding = serialization.Encoding.OpenSSH if openssh else serialization.Encoding.PEM
    form = serialization.PublicFormat.OpenSSH if openssh else serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(encoding, form))  # type: ignore[attr-defined]
    return private, public


@pytest.mark.parametrize("private_format", ["PKCS8", "OpenSSH"])
def test_a_signed_bundle_opens_with_its_makers_key_only(tmp_path: Path, private_format: str) -> None:
    private, public = make_keys(tmp_path, "maker", private_format=private_format)
    _, stranger = make_keys(tmp_path, "stranger")
    bundle = write_bundle(tmp_path / "bundle", sign_key=private).path
    assert Bundle.read(bundle, require_signature=public).signed
    assert Bundle.read(bundle).signed  # whoever asks for no signature needs no key
    with pytest.raises(InputError, match="was not signed with the key of"):
        Bundle.read(bundle, require_signature=stranger)


def test_a_manifest_changed_after_signing_is_refused(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "maker")
    bundle = write_bundle(tmp_path / "bundle", sign_key=private).path
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"tiny"', '"t1ny"'))
    Bundle.read(bundle)  # it is a good manifest: only the signature tells
    with pytest.raises(InputError, match="or was changed since"):
        Bundle.read(bundle, require_signature=public)


@pytest.mark.parametrize("signature", [None, b"", b"x" * 64, b"x" * 5000])
def test_an_unsigned_or_badly_signed_bundle_is_refused(tmp_path: Path, signature: bytes | None) -> None:
    _, public = make_keys(tmp_path, "maker")
    bundle = write_bundle(tmp_path / "bundle").path
    if signature is not None:
        (bundle / "manifest.sig").write_bytes(signature)
    with pytest.raises(InputError, match="sign"):
        Bundle.read(bundle, require_signature=public)


def test_what_is_no_key_is_one_sentence_and_replaces_nothing(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "maker")
    other, other_public = make_keys(tmp_path, "elliptic", ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "text").write_text("not a key")
    old = write_bundle(tmp_path / "bundle", sign_key=private)
    for wrong in (other, public, tmp_path / "text"):
        with pytest.raises(InputError, match="is not an unencrypted Ed25519 private key"):
            write_bundle(tmp_path / "bundle", batch=(1, 8), sign_key=wrong)
        with pytest.raises(InputError, match="is not an unencrypted Ed25519 private key"):
            check_private_key(wrong)
    with pytest.raises(InputError, match="cannot be read"):
        check_private_key(tmp_path / "missing")
    for wrong in (other_public, private, tmp_path / "text"):
        with pytest.raises(InputError, match="is not an Ed25519 public key"):
            Bundle.read(tmp_path / "bundle", require_signature=wrong)
    assert Bundle.read(tmp_path / "bundle", require_signature=public) == old


def test_an_encrypted_key_is_refused_and_not_asked_about(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    locked = tmp_path / "locked.pem"
    secret = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    with pytest.raises(InputError, match="is not an unencrypted Ed25519 private key"):
        check_private_key(locked)


def test_keys_made_by_openssl_as_the_message_says(tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    try:
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True
        )
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl with Ed25519 here")
    Bundle.read(write_bundle(tmp_path / "bundle", sign_key=private).path, require_signature=public)


def test_a_finished_bundle_can_be_signed_and_signed_anew(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "maker")
    other, other_public = make_keys(tmp_path, "other")
    bundle = write_bundle(tmp_path / "bundle").path
    done = radixrt("bundle", "--sign", private, bundle)
    assert (done.code, done.out.strip()) == (0, f"{bundle}: signed")
    assert Bundle.read(bundle, require_signature=public).signed
    assert radixrt("bundle", bundle, "--sign", other).code == 0
    Bundle.read(bundle, require_signature=other_public)
    done = radixrt("bundle", bundle, "--sign", public)
    assert (done.code, "is not an unencrypted Ed25519 private key" in done.sentence) == (2, True)
    done = radixrt("bundle", bundle)
    assert (done.code, "--sign KEY, --triton REPOSITORY or" in done.sentence) == (2, True)


def test_the_stand_alone_runner_verifies_as_the_package_does(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "maker")
    ssh = make_keys(tmp_path, "ssh", private_format="OpenSSH")
    _, stranger = make_keys(tmp_path, "stranger")
    photograph = write_image(tmp_path / "photograph.png")

    def run(bundle: Path, key: Path, *python: str) -> tuple[int, str]:
        command = [sys.executable, *python, str(bundle / "run.py"), "--require-signature", str(key), str(photograph)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    bundle = write_bundle(tmp_path / "bundle", sign_key=private).path
    assert run(bundle, public) == (0, "")
    assert run(write_bundle(tmp_path / "ssh", sign_key=ssh[0]).path, ssh[1]) == (0, "")
    cases = {
        stranger: "was not signed with the key of",
        private: "is not an Ed25519 public key",
        tmp_path / "missing.pub": "cannot be read",
    }
    for key, said in cases.items():
        code, told = run(bundle, key)
        assert (code, said in told, "Traceback" in told) == (2, True, False), told
    code, told = run(write_bundle(tmp_path / "plain").path, public)
    assert (code, "is not signed" in told) == (2, True)
    # A Python that has all but cryptography.
    (tmp_path / "cryptography.py").write_text("raise ImportError('no such module')")
    absent = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = sys.argv[1:]; "
    absent += "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0], run_name='__main__')"
    code, told = run(bundle, public, "-c", absent)
    assert (code, "a signature needs cryptography" in told) == (4, True), told
