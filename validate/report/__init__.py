"""A report for people: terminal, Markdown, page, JUnit."""
