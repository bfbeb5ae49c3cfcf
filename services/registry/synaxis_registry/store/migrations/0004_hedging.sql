-- Tenants whose requests are hedged without saying so.
ALTER TABLE tenant ADD COLUMN hedge boolean NOT NULL DEFAULT false;
