"""Compiled passes over the rows of a generalized model; rules as in `sparselmm.base.kernels`.

``values`` (n, k) are the covariates of a coded term; (0, 1) stands for a column of ones. Negative
codes and places mark rows that belong to no level. Two coefficients per level, the most common of
many, have branches without an inner loop, which take half the time.
"""

from __future__ import annotations

import numpy as np

from sparselmm.base.compiling import compiled
from sparselmm.base.types import FloatArray, IntArray


@compiled
def add_effects(codes: IntArray, values: FloatArray, b: FloatArray, eta: FloatArray) -> None:
    """``eta += Z_t b``; b (l * k,)."""
    k = values.shape[1]
    if values.shape[0] == 0:
        for i in range(codes.shape[0]):
            if codes[i] >= 0:
                eta[i] += b[codes[i]]
        return
    if k == 2:
        for i in range(codes.shape[0]):
            j = 2 * codes[i]
            if j >= 0:
                eta[i] += values[i, 0] * b[j] + values[i, 1] * b[j + 1]
        return
    for i in range(codes.shape[0]):
        if codes[i] >= 0:
            first, total = codes[i] * k, 0.0
            for a in range(k):
                total += values[i, a] * b[first + a]
            eta[i] += total


@compiled
def add_products(codes: IntArray, values: FloatArray, x: FloatArray, out: FloatArray) -> None:
    """``out += Z_t'x``; out (l * k,)."""
    k = values.shape[1]
    if values.shape[0] == 0:
        for i in range(codes.shape[0]):
            if codes[i] >= 0:
                out[codes[i]] += x[i]
        return
    if k == 2:
        for i in range(codes.shape[0]):
            j = 2 * codes[i]
            if j >= 0:
                out[j] += values[i, 0] * x[i]
                out[j + 1] += values[i, 1] * x[i]
        return
    for i in range(codes.shape[0]):
        if codes[i] >= 0:
            first = codes[i] * k
            for a in range(k):
                out[first + a] += values[i, a] * x[i]


@compiled
def add_cubes(
    codes: IntArray, values: FloatArray, b: FloatArray, x: FloatArray, out: FloatArray
) -> None:
    """``out[codes[i]] += x_i (z_i'b)^3``; out (l,)."""
    k = values.shape[1]
    for i in range(codes.shape[0]):
        j = codes[i]
        if j >= 0:
            e = b[j * k] if values.shape[0] == 0 else 0.0
            if values.shape[0] > 0:
                for a in range(k):
                    e += values[i, a] * b[j * k + a]
            out[j] += x[i] * e * e * e


@compiled
def fill_pair(
    places: IntArray, left: FloatArray, right: FloatArray, w: FloatArray, data: FloatArray
) -> None:
    """``data[places[i]] += w_i z_s z_t'``; data (nb, k_s, k_t)."""
    ks, kt = data.shape[1], data.shape[2]
    if ks == 1 and kt == 1 and left.shape[0] == 0 and right.shape[0] == 0:
        for i in range(places.shape[0]):
            if places[i] >= 0:
                data[places[i], 0, 0] += w[i]
        return
    if ks == 2 and kt == 2 and left.shape[0] > 0 and right.shape[0] > 0:
        for i in range(places.shape[0]):
            place = places[i]
            if place >= 0:
                u, v = w[i] * left[i, 0], w[i] * left[i, 1]
                data[place, 0, 0] += u * right[i, 0]
                data[place, 0, 1] += u * right[i, 1]
                data[place, 1, 0] += v * right[i, 0]
                data[place, 1, 1] += v * right[i, 1]
        return
    for i in range(places.shape[0]):
        place = places[i]
        if place >= 0:
            for a in range(ks):
                v = w[i]
                if left.shape[0] > 0:
                    v *= left[i, a]
                if right.shape[0] > 0:
                    for c in range(kt):
                        data[place, a, c] += v * right[i, c]
                else:
                    data[place, a, 0] += v


@compiled
def read_pair(
    places: IntArray, left: FloatArray, right: FloatArray, G: FloatArray, factor: float,
    out: FloatArray,
) -> None:  # fmt: skip
    """``out_i += factor z_s'G[places[i]] z_t``."""
    ks, kt = G.shape[1], G.shape[2]
    if ks == 1 and kt == 1 and left.shape[0] == 0 and right.shape[0] == 0:
        for i in range(places.shape[0]):
            if places[i] >= 0:
                out[i] += factor * G[places[i], 0, 0]
        return
    if ks == 2 and kt == 2 and left.shape[0] > 0 and right.shape[0] > 0:
        for i in range(places.shape[0]):
            place = places[i]
            if place >= 0:
                a, c = right[i, 0], right[i, 1]
                first = G[place, 0, 0] * a + G[place, 0, 1] * c
                second = G[place, 1, 0] * a + G[place, 1, 1] * c
                out[i] += factor * (left[i, 0] * first + left[i, 1] * second)
        return
    for i in range(places.shape[0]):
        place = places[i]
        if place >= 0:
            total = 0.0
            for a in range(ks):
                inner = 0.0
                if right.shape[0] > 0:
                    for c in range(kt):
                        inner += G[place, a, c] * right[i, c]
                else:
                    inner = G[place, a, 0]
                total += inner * left[i, a] if left.shape[0] > 0 else inner
            out[i] += factor * total


@compiled
def scale_rows(x: FloatArray, w: FloatArray, out: FloatArray) -> None:
    """``out_i = w_i x_i``; x, out (n, c)."""
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            out[i, c] = w[i] * x[i, c]


@compiled
def find_places(
    indptr: IntArray, rows: IntArray, left: IntArray, right: IntArray, out: IntArray
) -> None:
    """Where the block of levels (left, right) stands in a pair; -1 where a row has no level."""
    for i in range(left.shape[0]):
        if left[i] < 0 or right[i] < 0:
            out[i] = -1
            continue
        low, high = indptr[right[i]], indptr[right[i] + 1]
        while high - low > 1:
            middle = (low + high) // 2
            if rows[middle] <= left[i]:
                low = middle
            else:
                high = middle
        out[i] = low


def places_of(indptr: IntArray, rows: IntArray, left: IntArray, right: IntArray) -> IntArray:
    """The same as a new array of int32."""
    out = np.empty(len(left), dtype=np.int32)
    find_places(indptr, rows, left, right, out)
    return out
