"""How to cite the package."""

from __future__ import annotations

from sparselmm.base.arguments import check_choice
from sparselmm.base.providers import versions

TITLE = "sparselmm: linear mixed models by sparse Cholesky factorization"


def citation(style: str = "text") -> str:
    """How to cite the package, with the version in use.

    Parameters
    ----------
    style : {"text", "bibtex"}

    Returns
    -------
    str

    Examples
    --------
    >>> import sparselmm
    >>> print(sparselmm.citation("bibtex").splitlines()[0])
    @software{sparselmm,
    """
    style = check_choice(style, "style", ("text", "bibtex"))
    version = versions()["sparselmm"]
    if style == "text":
        return f"The sparselmm developers. {TITLE}. Version {version}. Software."
    fields = {"author": "{The sparselmm developers}", "title": TITLE, "version": version}
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join(["@software{sparselmm,", *lines, "}"])
