"""Classifications of datasets: a second kind of job, and the files of their answers."""

import sqlalchemy as sa
from alembic import op

revision = '0010'
down_revision = '0009'


def upgrade() -> None:
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('kind', sa.String(length=32), server_default='fine_tuning', nullable=False))

    op.create_table('result_files',
    sa.Column('job_id', sa.String(length=64), nullable=False),
    sa.Column('owner', sa.String(length=64), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('artifact_uri', sa.Text(), nullable=False),
    sa.Column('num_bytes', sa.BigInteger(), nullable=False),
    sa.Column('sha256', sa.String(length=64), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_result_files_job_id_jobs'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', name=op.f('pk_result_files'))
    )
    with op.batch_alter_table('result_files', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_result_files_owner'), ['owner'], unique=False)


def downgrade() -> None:
    with op.batch_alter_table('result_files', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_result_files_owner'))
    op.drop_table('result_files')
    # An earlier version would take them for fine-tuning jobs. SQLite cascades nothing while it migrates.
    others = "(SELECT id FROM jobs WHERE kind <> 'fine_tuning')"
    for table in ('events', 'metrics', 'checkpoints', 'deliveries', 'runs'):
        op.execute(f'DELETE FROM {table} WHERE job_id IN {others}')
    op.execute("DELETE FROM jobs WHERE kind <> 'fine_tuning'")
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_column('kind')
