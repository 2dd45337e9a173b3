"""Second stages: what turns a proposal into class scores and a box."""
