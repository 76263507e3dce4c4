-- reached_limit: which limit blocks the calls of a target now.
-- ARGV    2 runtime  3 target  4 project
-- returns {'version', 'function', 'project' or 'runtime', the limit, the leases that it counts}; {}: none is reached

local counts = read_counts(ARGV[3], ARGV[4], ARGV[2])
for _, limit in ipairs({'version', 'function', 'project', 'runtime'}) do
  if is_reached(counts, limit) then
    return {limit, counts[limit .. '_limit'], counts[limit .. 's']}
  end
end
return {}
