"""Models from elsewhere: fetched from the Hugging Face Hub, a zip file or a folder, checked, installed.

rules.py: which files a model may consist of. sources.py, huggingface.py: where they come from. fetch.py: one
file, checked, continued after a stop. install.py: all of them, in their place at once. origin.py: the note
that says where a model came from.
"""
