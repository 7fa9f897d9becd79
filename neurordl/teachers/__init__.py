"""Teachers: references whose representational geometry a student learns."""

from neurordl.teachers.base import Batch, Target, Teacher
from neurordl.teachers.network import LayerTeacher, NetworkTeacher
from neurordl.teachers.pattern import PatternTeacher
from neurordl.teachers.rdm import RDMTeacher

__all__ = ["Batch", "LayerTeacher", "NetworkTeacher", "PatternTeacher", "RDMTeacher", "Target", "Teacher"]
