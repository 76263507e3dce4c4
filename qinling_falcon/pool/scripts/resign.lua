-- resign: a pool manager has ended in order; another one need not wait until its claim expires.
-- ARGV    5 manager's name
-- reads   manager      writes  manager
-- returns 1, or 0: it was not the active one

if call('GET', P .. 'manager') ~= ARGV[5] then return 0 end
return call('DEL', P .. 'manager')
