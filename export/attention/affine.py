"""Affine functions of pooled channels and of activations: the algebra of an attention block's tiny tensors.

Whatever spelling a block has, each element of each tensor between its global pool and its gate is an affine function of
the elements of a few *bases*: a pooled tensor, or the result of an elementwise activation or a softmax. Layout
operations pick rows; fully connected layers, biases and folded normalisations multiply and add. So the function is kept
as sparse matrices in float64, one per basis, and composing layers folds them exactly (in real arithmetic).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy import sparse

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
PoolKind = Literal["avg", "max"]


@dataclass(frozen=True, eq=False)
class Pooled:
    """A basis: the ``size`` channels of ``source``, averaged or maximised over all of space."""

    kind: PoolKind
    source: ir.Value
    size: int


@dataclass(frozen=True, eq=False)
class Activated:
    """A basis: ``kind`` applied to each element of ``inner``, or for ``Softmax`` to groups of elements.

    Attributes:
        params: the activation's numbers in its ONNX operator's order (``alpha, beta`` of HardSigmoid, ``min, max`` of
            Clip).
        group_of: for each element, the number of the softmax it takes part in.
    """

    kind: str
    inner: Affine
    params: tuple[float, ...] = ()
    group_of: Ints | None = None

    @property
    def size(self) -> int:
        return self.inner.size


Basis = Pooled | Activated


@dataclass(frozen=True, eq=False)
class Affine:
    """``bias + sum over bases of matrix @ basis``; each matrix has shape (size, basis size)."""

    terms: tuple[tuple[Basis, sparse.csr_matrix], ...]
    bias: Floats

    @property
    def size(self) -> int:
        return int(self.bias.size)

    def take(self, rows: Ints) -> Affine:
        """The elements numbered ``rows``, in that order."""
        if rows.size == self.size and np.array_equal(rows, np.arange(self.size)):
            return self
        return Affine(tuple((basis, matrix[rows]) for basis, matrix in self.terms), self.bias[rows])

    def scale(self, factors: Floats) -> Affine:
        """Multiplies element ``i`` by ``factors[i]``."""
        diagonal = sparse.diags_array(factors, format="csr")
        return Affine(tuple((b, sparse.csr_matrix(diagonal @ m)) for b, m in self.terms), self.bias * factors)

    def scale_terms(self, factor: float) -> Affine:
        """Multiplies all but the bias, as another unit of the bases does."""
        return Affine(tuple((b, m * factor) for b, m in self.terms), self.bias)

    def shift(self, offsets: Floats) -> Affine:
        """Adds ``offsets[i]`` to element ``i``."""
        return Affine(self.terms, self.bias + offsets)

    def apply(self, weight: sparse.csr_matrix) -> Affine:
        """Returns ``weight @ self``."""
        return Affine(tuple((b, sparse.csr_matrix(weight @ m)) for b, m in self.terms), weight @ self.bias)

    def plus(self, other: Affine) -> Affine:
        """Adds two vectors of the same size."""
        terms = dict(self.terms)
        for basis, matrix in other.terms:
            terms[basis] = terms[basis] + matrix if basis in terms else matrix
        return Affine(tuple(terms.items()), self.bias + other.bias)

    def substitute(self, old: Basis, new: Affine) -> Affine:
        """Replaces the basis ``old`` by what its elements are: ``new``."""
        rest = Affine(tuple((b, m) for b, m in self.terms if b is not old), self.bias)
        for basis, matrix in self.terms:
            if basis is old:
                rest = rest.plus(new.apply(matrix)) if rest.terms else new.apply(matrix).shift(rest.bias)
        return rest


def identity(basis: Basis) -> Affine:
    """The vector whose elements are the basis itself."""
    return Affine(((basis, sparse.csr_matrix(sparse.eye_array(basis.size, format="csr"))),), np.zeros(basis.size))


def stack(parts: list[Affine]) -> Affine:
    """Concatenates vectors."""
    sizes = [part.size for part in parts]
    terms: dict[Basis, list[sparse.csr_matrix | None]] = {}
    for index, part in enumerate(parts):
        for basis, matrix in part.terms:
            terms.setdefault(basis, [None] * len(parts))[index] = matrix
    stacked = tuple(
        (
            basis,
            sparse.csr_matrix(
                sparse.vstack(
                    [
                        sparse.csr_matrix((size, basis.size)) if block is None else block
                        for size, block in zip(sizes, blocks, strict=True)
                    ],
                    format="csr",
                )
            ),
        )
        for basis, blocks in terms.items()
    )
    return Affine(stacked, np.concatenate([part.bias for part in parts]))


def same(left: Affine, right: Affine) -> bool:
    """Whether two vectors are the same function of the same bases."""
    if left is right:
        return True
    if left.size != right.size or {b for b, _ in left.terms} != {b for b, _ in right.terms}:
        return False
    others = dict(right.terms)
    return bool(np.array_equal(left.bias, right.bias)) and all(_equal(m, others[b]) for b, m in left.terms)


def sole_basis(vector: Affine) -> Basis | None:
    """The basis that ``vector`` is, element for element, or None."""
    if len(vector.terms) != 1 or vector.bias.any():
        return None
    basis, matrix = vector.terms[0]
    if basis.size != vector.size or matrix.nnz != vector.size:
        return None
    return basis if _equal(matrix, sparse.csr_matrix(sparse.eye_array(basis.size, format="csr"))) else None


def _equal(left: sparse.csr_matrix, right: sparse.csr_matrix) -> bool:
    difference = left - right
    return bool(difference.nnz == 0 or not difference.data.any())


def roots(vector: Affine) -> frozenset[Pooled]:
    """The pooled tensors that ``vector`` depends on, through any number of activations."""
    found: set[Pooled] = set()
    for basis, _ in vector.terms:
        found |= {basis} if isinstance(basis, Pooled) else roots(basis.inner)
    return frozenset(found)
