"""Label QA: a model's second opinion on the annotations of a data set.

command.py is `hindsight audit`, run.py the whole of it in order. The model's part is examine.py, kept in a
journal.py; judge.py makes verdicts of it; report.py and coco_output.py write what people and programs read.
"""
