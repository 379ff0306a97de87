"""From what was found to pages: tables, verdict, figures, one page builder."""
