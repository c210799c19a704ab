"""Files that people bring: what their names say, which of a folder are read, and their content as UTF-8 text.

In reading order: names, folder, content, columns, ownership (who may work on a folder).
"""
