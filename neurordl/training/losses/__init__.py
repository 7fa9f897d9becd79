"""Transfer losses: what pulls a student towards its teacher."""
