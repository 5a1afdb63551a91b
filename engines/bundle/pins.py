"""Hashes that say which network and which images something was made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import Doc

from radixrt.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PinOptions:
    """What the network and the images must be, as a bundle's recipe says."""

    model_sha256: Annotated[str | None, Doc("Refuse a network whose weights have another hash.")] = None
    data_sha256: Annotated[str | None, Doc("Refuse images whose files have another hash.")] = None

    def check(self, found: PinOptions) -> None:
        """Refuses a network or images that are not those asked for.

        Raises:
            InputError: which of the two is another one.
        """
        for what, option, wanted, is_here in (
            ("the network", "model_sha256", self.model_sha256, found.model_sha256),
            ("the set of images", "data_sha256", self.data_sha256, found.data_sha256),
        ):
            if wanted is not None and wanted.lower() != is_here:
                raise InputError(
                    f"{what} is not the one that {option} names: {is_here} is here, {wanted} was asked for; leave "
                    f"{option} out to take what is here"
                )
