"""Ed25519 signatures over a bundle's manifest, which holds the hash of every other file.

Keys are PEM files, as ``openssl genpkey -algorithm ed25519`` writes them, or unencrypted OpenSSH ones.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radixrt.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def sign(data: bytes, private_key: Path) -> bytes:
    """Signs the manifest's bytes.

    Returns:
        The signature, 64 bytes.

    Raises:
        InputError: the file holds no unencrypted Ed25519 private key.
        UnavailableError: the ``cryptography`` package is missing.
    """
    return _private(private_key).sign(data)


def check_private_key(private_key: Path) -> None:
    """Finds out before a long build whether it could be signed.

    Raises:
        InputError: the file holds no unencrypted Ed25519 private key.
        UnavailableError: the ``cryptography`` package is missing.
    """
    _private(private_key)


def verify(data: bytes, signature: bytes, public_key: Path, where: str) -> None:
    """Holds a signature against the manifest's bytes.

    Args:
        data: the manifest's bytes.
        signature: what lies beside it.
        public_key: the key of the one who must have signed.
        where: how an error names the bundle.

    Raises:
        InputError: somebody else signed, or the manifest was changed since; or the file holds no public key.
        UnavailableError: the ``cryptography`` package is missing.
    """
    key = _public(public_key)
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, data)
    except InvalidSignature as error:
        raise InputError(
            f"{where} was not signed with the key of {public_key}, or was changed since: get it again from its maker"
        ) from error


def _private(path: Path) -> Ed25519PrivateKey:
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = _load(path, (serialization.load_pem_private_key, serialization.load_ssh_private_key), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(
            f"{path} is not an unencrypted Ed25519 private key: make one with openssl genpkey -algorithm ed25519"
        )
    return key


def _public(path: Path) -> Ed25519PublicKey:
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = _load(path, (serialization.load_pem_public_key, serialization.load_ssh_public_key))
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} is not an Ed25519 public key: make one with openssl pkey -pubout")
    return key


def _load(path: Path, loaders: tuple[Any, ...], **options: Any) -> object:
    """The key in a file, by the first loader that takes it; None where none does."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"the key {path} cannot be read ({error.strerror}): check its name and permissions") from error
    key: object = None
    for loader in loaders:
        # TypeError is how an encrypted key says that it wants a password.
        with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
            key = key or loader(data, **options)
    return key


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise UnavailableError(
            "signing", "the cryptography package is not installed", 'Install it: pip install "radixrt[sign]"'
        ) from error
    return serialization
