-- Messages go out: what holds if nobody hears of them again. 2: the group was changed, and its members have to look first.
-- KEYS: group, shard, messages that come again, what was brought back
-- ARGV: epoch, revision of the group that the member knows, right behind the last that goes out for the first time or '',
--       how many come again; of these positions and what is known of them ..; of what was brought back numbers and the same ..
if redis.call('HGET', KEYS[2], 'epoch') ~= ARGV[1] or not redis.call('HGET', KEYS[2], 'owner') then
  return 0
end
if (redis.call('HGET', KEYS[1], 'rev') or '0') ~= ARGV[2] then
  return 2
end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], 'out', ARGV[3])
end
local last = 4 + 2 * tonumber(ARGV[4])
for i = 5, last, 2 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
for i = last + 1, #ARGV, 2 do
  redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1])
end
return 1
