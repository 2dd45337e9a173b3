"""A machine-learning backend for Label Studio: it asks for boxes on its tasks, and shows them to annotators.

config.py reads a project's labeling configuration, media.py the images that its tasks name, and routes.py
answers. Images are never fetched.
"""
