"""Documents: files that people write for people become passages of the length that the student reads.

In reading order: document (what a parser gives), formats (which parser reads which file), plain_text, markdown, html,
pdf, docx; tokens, chunker (documents into chunks); reader (a folder of files), stage (the table DOCUMENTS), chunks (its
chunks as RECORDS).
"""
