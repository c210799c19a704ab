"""What differs between languages: their names, which one a corpus is in, and where sentences and words end.

In reading order: names, detect, sentences, segmentation, stop_words.
"""
