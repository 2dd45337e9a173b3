"""The dashboard as data, and the folder that Grafana reads."""
