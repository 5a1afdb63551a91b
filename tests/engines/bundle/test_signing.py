"""A required signature holds for one key and for these very bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.bundle.signing import check_private_key
from radixrt.errors import InputError
from tests.engines.bundle.bundles import write_bundle

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
