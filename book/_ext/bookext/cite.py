"""BibTeX entries: for the book, for a chapter, for one statement."""

from bookext.project import Project
from bookext.statements import Statement


def book_entry(project: Project, year: str) -> str:
    """The whole book, in this version."""
    title = f"{project.title}: {project.subtitle}"
    own = {"title": title, "note": f"Version {project.version}"}
    return _entry("book", "book", own, project, year, "")


def chapter_entry(label: str, title: str, url: str, project: Project, year: str) -> str:
    """One page of the book."""
    note = f"Version {project.version}, chapter label {label}"
    own = {"title": title, "booktitle": project.title, "note": note}
    return _entry("incollection", label, own, project, year, url)


def bibtex(statement: Statement, project: Project, year: str) -> str:
    """One statement: title and label always."""
    own = {
        "title": statement.name,
        "booktitle": project.title,
        "chapter": statement.page,
        "note": f"Version {project.version}, label {statement.label}",
    }
    return _entry("incollection", statement.label, own, project, year, statement.url)


def _entry(
    kind: str, key: str, own: dict[str, str], project: Project, year: str, url: str
) -> str:
    """Address and DOI where there are any."""
    fields = {
        "author": f"{{{project.authors}}}",
        **own,
        "year": year,
        "doi": project.doi,
        "url": project.url(url),
    }
    lines = [f"  {name:9} = {{{value}}}" for name, value in fields.items() if value]
    return f"@{kind}{{pcnotes:{key},\n" + ",\n".join(lines) + "\n}"
