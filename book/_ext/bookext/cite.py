"""A BibTeX entry for one statement of the book."""

from bookext.project import Project
from bookext.statements import Statement


def bibtex(statement: Statement, project: Project, year: str) -> str:
    """Title and label always; address and DOI where there are any."""
    fields = {
        "author": f"{{{project.authors}}}",
        "title": statement.name,
        "booktitle": project.title,
        "chapter": statement.page,
        "year": year,
        "note": f"Version {project.version}, label {statement.label}",
        "doi": project.doi,
        "url": project.url(statement.url),
    }
    lines = [f"  {key:9} = {{{value}}}" for key, value in fields.items() if value]
    return f"@incollection{{pcnotes:{statement.label},\n" + ",\n".join(lines) + "\n}"
