from importlib.metadata import metadata

from docutils import nodes

about = metadata("sparselmm")
project = about["Name"]
author = about["Author"]
release = about["Version"]
copyright = "2026, sparselmm developers"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax comes with the pages: formulas need no network
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Every page runs on every build, so the numbers it shows are the present code's.
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
# Progress of fits that take long on the building machine; warnings are printed where they matter.
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types and shapes
napoleon_google_docstring = False
napoleon_use_ivar = True  # attributes as fields: autodoc lists properties once, not twice

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css", "pages.css"]
html_extra_path = ["llms.txt"]

# `make linkcheck`: addresses that answer machines otherwise than people.
linkcheck_timeout = 20
linkcheck_ignore = [r"https://doi\.org/.*"]

# Shapes in type fields, such as (k_re, k_re), look like references to attributes of two classes.
suppress_warnings = ["ref.python"]


def side_by_side(app, doctree):
    """On the pages for users of other programs: their calls and output to the left, ours right."""
    if not app.env.docname.startswith("coming-from/"):
        return
    for section in doctree.findall(nodes.section):
        theirs, ours = [], []
        for node in [*section.children, None]:
            literal = isinstance(node, nodes.literal_block)
            if isinstance(node, nodes.Element) and "cell" in node["classes"] and theirs:
                ours.append(node)
            elif literal and not ours:
                theirs.append(node)
            else:
                if ours:
                    pair = nodes.container(classes=["sides"])
                    section.insert(section.index(theirs[0]), pair)
                    for part in (theirs, ours):
                        for one in part:
                            section.remove(one)
                        pair += nodes.container("", *part)
                theirs, ours = ([node], []) if literal else ([], [])


def setup(app):
    app.connect("doctree-read", side_by_side)
