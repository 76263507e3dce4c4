-- limits: how many leases a version, a function, a project and a runtime may have, and how many they have.
--
-- The hash `concurrency` has the limits (written by the manager), the own limits of versions (written by lease
-- and renew; the function itself is version 0) and the counts. So one command reads everything that a lease needs. The reaper removes
-- counts of 0.
-- include: workers

local CONCURRENCY = P .. 'concurrency'
local UNLIMITED = 1e9  -- also used before the manager has written the limits

-- `function:version` of a target.
local function version_of(target)
  return string.match(target, '^[^:]*:?[^:]*')
end

-- The limits and counts of a target's version and function, of its project and its runtime.
local function read_counts(target, project_id, runtime)
  local version = version_of(target)
  local is = call('HMGET', CONCURRENCY, 'limit function', 'limit project', 'limit runtime', 'own ' .. version,
    'version ' .. version, 'function ' .. function_of(target), 'project ' .. project_id, 'runtime ' .. runtime)
  return {
    own = is[4],
    version_limit = tonumber(is[4]) or UNLIMITED, function_limit = tonumber(is[1]) or UNLIMITED,
    project_limit = tonumber(is[2]) or UNLIMITED, runtime_limit = tonumber(is[3]) or UNLIMITED,
    versions = tonumber(is[5]) or 0, functions = tonumber(is[6]) or 0, projects = tonumber(is[7]) or 0,
    runtimes = tonumber(is[8]) or 0,
  }
end

-- Like read_counts, after it has set the version's own limit to that of the call, if it differs. '' is no limit.
local function read_counts_with_own(target, project_id, runtime, own)
  local counts = read_counts(target, project_id, runtime)
  if (counts.own or '') == own then return counts end
  if own == '' then
    call('HDEL', CONCURRENCY, 'own ' .. version_of(target))
  else
    call('HSET', CONCURRENCY, 'own ' .. version_of(target), own)
  end
  return read_counts(target, project_id, runtime)
end

-- How many more leases the limits allow. Negative if a limit was lowered below its count.
local function room_of(counts)
  return math.min(counts.version_limit - counts.versions, counts.function_limit - counts.functions,
    counts.project_limit - counts.projects, counts.runtime_limit - counts.runtimes)
end

-- Whether the limits allow one more lease.
local function is_below(counts)
  return room_of(counts) > 0
end

-- Whether the present leases exceed no limit. They can, because a limit may be lowered below its count.
local function is_within(counts)
  return room_of(counts) >= 0
end

local function count_leases(counts, by, target, project_id, runtime)
  counts.versions, counts.functions = counts.versions + by, counts.functions + by
  counts.projects, counts.runtimes = counts.projects + by, counts.runtimes + by
  call('HSET', CONCURRENCY, 'version ' .. version_of(target), counts.versions, 'function ' .. function_of(target),
    counts.functions, 'project ' .. project_id, counts.projects, 'runtime ' .. runtime, counts.runtimes)
end
