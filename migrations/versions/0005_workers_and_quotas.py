"""Workers with their last signs of life; stored bytes and devices, which quotas count; which ended runs are swept."""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'


def upgrade() -> None:
    op.create_table('workers',
    sa.Column('name', sa.String(length=256), nullable=False),
    sa.Column('host', sa.String(length=256), nullable=False),
    sa.Column('device', sa.String(length=256), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('seen_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('answered_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_workers'))
    )
    for table in ('checkpoints', 'models'):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column('num_bytes', sa.BigInteger(), server_default='0', nullable=False))
    with op.batch_alter_table('runs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('num_devices', sa.Integer(), server_default='1', nullable=False))
        batch_op.add_column(sa.Column('swept_at', sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('runs', schema=None) as batch_op:
        batch_op.drop_column('swept_at')
        batch_op.drop_column('num_devices')
    for table in ('models', 'checkpoints'):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column('num_bytes')
    op.drop_table('workers')
