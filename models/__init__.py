"""Machine-learning models: arrays in, probabilities out. (Database tables are in `db`.)

Nothing here knows time, rows, files of media or the network: no celery, sqlalchemy, boto3 or av, except that
`models.training` may read media, and `models.checkpoints` fetches a checkpoint that the user names by its hub id.
"""
