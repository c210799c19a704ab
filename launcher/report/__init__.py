"""The report of a run, `report.json` and `report.html`, made from the files of its workdir alone.

Read in this order: page (what is written), gather (the numbers), then one file a section: verdict, queries, funnel,
teachers, training, by_query; charts turns numbers into coordinates.
"""
