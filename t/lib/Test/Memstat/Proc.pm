# Reads figures of a process from /proc: an independent reading to compare an answer with.
package Test::Memstat::Proc;

use strict;
use warnings;

use Exporter 'import';
use POSIX ();
use Time::HiRes ();

our @EXPORT_OK = qw(children cpu_time maps milliseconds open_files page_size proc_status read_file threads uptime);

sub read_file {
    my ($path) = @_;
    open my $file, '<', $path or return undef;
    local $/;
    return scalar <$file>;
}

sub page_size { return POSIX::sysconf(POSIX::_SC_PAGESIZE()) }

# Returns the sorted pids of a process's running children.
sub children {
    my ($parent) = @_;
    my @children;
    for my $stat (glob '/proc/[0-9]*/stat') {
        my $text = read_file($stat) // next;
        my ($pid, $state, $ppid) = $text =~ /^(\d+) \(.*\) (\S) (\d+)/s or next;
        push @children, $pid if $ppid == $parent && $state ne 'Z';
    }
    @children = sort { $a <=> $b } @children;
    return @children;
}

# Returns /proc/PID/status, with sizes in bytes; an empty list if the process has exited.
sub proc_status {
    my ($pid) = @_;
    my %status;
    for (split /\n/, read_file("/proc/$pid/status") // '') {
        my ($name, $value) = /^(\w+):\s*(.*?)\s*$/ or next;
        $status{$name} = $value =~ /^(\d+) kB$/ ? $1 * 1024 : $value;
    }
    return %status;
}

# Returns the mappings in /proc/PID/maps as hashes: from, to, size, rights, inode, path.
sub maps {
    my ($pid) = @_;
    no warnings 'portable';
    my @maps;
    for (split /\n/, read_file("/proc/$pid/maps") // '') {
        my ($from, $to, $rights, $inode, $path) = /^(\w+)-(\w+) (\S+) \w+ \S+ (\d+)\s*(.*)$/ or next;
        ($from, $to) = map { hex } $from, $to;
        push @maps,
            { from => $from, to => $to, size => $to - $from,
              rights => $rights, inode => $inode, path => $path };
    }
    return @maps;
}

# Returns the threads of a process, including the main thread.
sub threads {
    my ($pid) = @_;
    my @threads = glob "/proc/$pid/task/[0-9]*";
    return scalar @threads;
}

# Returns the sorted targets of a process's open descriptors, such as "anon_inode:[eventfd]".
sub open_files {
    my ($pid) = @_;
    my @files = sort grep { defined } map { readlink } glob "/proc/$pid/fd/*";
    return @files;
}

# Returns the CPU time of a process's main thread, in seconds. It measures a cost even if the machine is
# busy with other things.
sub cpu_time {
    my ($pid) = @_;
    my ($nanoseconds) = split ' ', read_file("/proc/$pid/schedstat") // return;
    return $nanoseconds / 1e9;
}

# Returns the time of a monotonic clock, in milliseconds. The difference of two readings is an upper bound for
# everything in between.
sub milliseconds { return 1000 * Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()) }

# Returns the seconds since the process started.
sub uptime {
    my ($pid) = @_;
    my ($since_boot) = split ' ', read_file('/proc/uptime');
    my @fields = split ' ', (read_file("/proc/$pid/stat") // return) =~ s/^.*\) //sr;
    return $since_boot - $fields[19] / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

1;
