"""Reports on datasets."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = '0009'
down_revision = '0008'


def upgrade() -> None:
    op.create_table('dataset_reports',
    sa.Column('id', sa.String(length=64), nullable=False),
    sa.Column('owner', sa.String(length=64), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('reference', sa.Text(), nullable=False),
    sa.Column('content', sa.JSON().with_variant(JSONB(), 'postgresql'), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_dataset_reports'))
    )
    with op.batch_alter_table('dataset_reports', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_dataset_reports_owner'), ['owner'], unique=False)


def downgrade() -> None:
    with op.batch_alter_table('dataset_reports', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_dataset_reports_owner'))
    op.drop_table('dataset_reports')
