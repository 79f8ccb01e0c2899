"""Screens: a screenshot and an instruction in, mouse and keyboard out."""
