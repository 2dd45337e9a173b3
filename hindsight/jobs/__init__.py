"""`hindsight detect` over many images and videos: what is asked, who answers it, what is kept of it.

sources.py   which images and videos, in which order
targets.py   which file each annotated picture and label file becomes
work.py      one image's work: a Task in, a Reply out
crew.py      worker processes; worker.py is their side
remote.py    a running server in their place
entries.py   what is known of an image, a frame or a video
journal.py   all of it on disk, through kill -9 and power cuts
outputs.py   the journal as COCO JSON, JSON lines, YOLO text or Label Studio tasks
film.py      the annotated video
run.py       puts these together
"""
